// Executors, and the second phase of an operator.
#include "executor.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "acl/accounts.h"
#include "acl/last_error.h"
#include "acl/memory.h"
#include "acl/runtime.h"
#include "acl/stream.h"
#include "aclnn/aclnn_base.h"
#include "core/cost.h"
#include "executors.h"
#include "status.h"
#include "tensor.h"

namespace sim {
namespace {

std::mutex g_mutex;
std::map<aclOpExecutor*, std::unique_ptr<aclOpExecutor>> g_live;

void NoteIfQueued(const aclOpExecutor& executor, const char* call) {
    if (const int queued = *executor.queued; queued > 0) {
        NoteViolation(Format("%s of an executor that is queued %d times", call, queued));
    }
}

bool IsLiveExecutor(aclOpExecutor* executor) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return g_live.count(executor) != 0;
}

int NoExecutor(const char* call) {
    return FailWith(kAclnnInvalid, Format("%s: no executor; one that is not repeatable ends with its first run", call));
}

int SetAddress(aclOpExecutor* executor, bool output, size_t index, const aclTensor* tensor, void* address,
               const char* call) {
    if (!IsLiveExecutor(executor)) {
        return NoExecutor(call);
    }
    if (tensor == nullptr) {
        return FailWith(kAclnnNull, Format("%s: tensor is null", call));
    }
    const size_t first = output ? executor->inputs : 0;
    const size_t count = output ? executor->request.tensors.size() - executor->inputs : executor->inputs;
    if (index >= count) {
        return FailWith(kAclnnInvalid, Format("%s: index %zu; there are %zu tensors", call, index, count));
    }
    NoteIfQueued(*executor, call);
    // The offset of the view counts from the address, as in aclCreateTensor.
    executor->request.tensors[first + index].address =
        reinterpret_cast<uint64_t>(address) + static_cast<uint64_t>(tensor->offset) * BytesOf(tensor->data_type);
    return 0;
}

TaskResult RunLaunch(const LaunchRequest& request) {
    const LaunchResult result = Launch(request);
    if (result.ok) {
        return {0, "", EstimateCost(*result.chip, result.blocks).total_us};
    }
    const int fault = result.chip->is_310b ? ACL_ERROR_RT_AICORE_EXCEPTION : ACL_ERROR_RT_VECTOR_CORE_EXCEPTION;
    return {fault, std::string(NameOf(result.cause)) + ": " + result.message};
}

Task LaunchTask(const aclOpExecutor& executor, void* workspace, const Fault& fault) {
    LaunchRequest request = executor.request;
    request.workspace = reinterpret_cast<uint64_t>(workspace);
    Task task;
    task.stage = Stage::kKernel;
    task.fault = fault;
    for (const GlobalRange& tensor : request.tensors) {
        task.uses.push_back(UseMemory(reinterpret_cast<const void*>(tensor.address)));
    }
    const std::shared_ptr<std::atomic<int>> queued = executor.queued;
    ++*queued;
    task.uses.push_back(std::shared_ptr<void>(nullptr, [queued](void*) { --*queued; }));
    const GlobalRange& y = request.tensors.back();
    task.result = reinterpret_cast<unsigned char*>(y.address);
    task.result_bytes = y.bytes;
    task.work = [request = std::move(request)] { return RunLaunch(request); };
    return task;
}

}  // namespace

aclOpExecutor* KeepExecutor(std::unique_ptr<aclOpExecutor> executor) {
    aclOpExecutor* const kept = executor.get();
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_live[kept] = std::move(executor);
    Account(Resource::kExecutor, 1);
    return kept;
}

aclnnStatus Run(const char* op_type, void* workspace, uint64_t workspace_size, aclOpExecutor* executor,
                aclrtStream stream) {
    const std::string function = std::string("aclnn") + op_type;
    const Call call(function, Call::kQueues);
    if (call.code() != 0) {
        return call.code();
    }
    if (executor == nullptr) {
        return FailWith(kAclnnNull, "executor is null");
    }
    if (!IsLiveExecutor(executor)) {
        return NoExecutor("second phase");
    }
    if (workspace_size < executor->workspace_bytes || (workspace == nullptr && executor->workspace_bytes > 0)) {
        return FailWith(kAclnnInvalid, Format("workspace %p of %llu bytes; the first phase asked for %llu", workspace,
                                              static_cast<unsigned long long>(workspace_size),
                                              static_cast<unsigned long long>(executor->workspace_bytes)));
    }
    for (const aclTensor* tensor : executor->tensors) {
        if (!IsLive(tensor)) {
            return FailWith(kAclnnInvalid, "second phase: a tensor of the executor was destroyed");
        }
    }
    if (Enqueue(function, stream, LaunchTask(*executor, workspace, call.fault())) != 0) {
        return kAclnnRuntime;
    }
    if (!executor->repeatable) {
        const std::lock_guard<std::mutex> lock(g_mutex);
        g_live.erase(executor);
        Account(Resource::kExecutor, -1);
    }
    return 0;
}

}  // namespace sim

int64_t AscendSimulatorTiling(aclOpExecutor* executor, void* tiling, uint64_t bytes) {
    if (!sim::IsLiveExecutor(executor)) {
        return -1;
    }
    const std::vector<unsigned char>& data = executor->request.tiling;
    std::memcpy(tiling, data.data(), std::min<uint64_t>(bytes, data.size()));
    return executor->request.blocks;
}

uint64_t AscendSimulatorLiveHandles() {
    return static_cast<uint64_t>(sim::Living(sim::Resource::kTensor) + sim::Living(sim::Resource::kExecutor));
}

aclnnStatus aclnnInit(const char*) { return sim::Call("aclnnInit").code(); }

aclnnStatus aclnnFinalize() { return sim::Call("aclnnFinalize").code(); }

aclnnStatus aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
    const sim::Call call("aclSetAclOpExecutorRepeatable");
    if (call.code() != 0) {
        return call.code();
    }
    if (!sim::IsLiveExecutor(executor)) {
        return sim::NoExecutor("aclSetAclOpExecutorRepeatable");
    }
    executor->repeatable = true;
    return 0;
}

aclnnStatus aclDestroyAclOpExecutor(aclOpExecutor* executor) {
    const sim::Call call("aclDestroyAclOpExecutor");
    if (call.code() != 0) {
        return call.code();
    }
    const std::lock_guard<std::mutex> lock(sim::g_mutex);
    const auto found = sim::g_live.find(executor);
    if (found == sim::g_live.end()) {
        return sim::NoExecutor("aclDestroyAclOpExecutor");
    }
    sim::NoteIfQueued(*executor, "aclDestroyAclOpExecutor");
    sim::g_live.erase(found);
    sim::Account(sim::Resource::kExecutor, -1);
    return 0;
}

aclnnStatus aclSetInputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    const sim::Call call("aclSetInputTensorAddr");
    return call.code() != 0 ? call.code()
                            : sim::SetAddress(executor, false, index, tensor, addr, "aclSetInputTensorAddr");
}

aclnnStatus aclSetOutputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    const sim::Call call("aclSetOutputTensorAddr");
    return call.code() != 0 ? call.code()
                            : sim::SetAddress(executor, true, index, tensor, addr, "aclSetOutputTensorAddr");
}

aclnnStatus AclSetInputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return aclSetInputTensorAddr(executor, index, tensor, addr);
}

aclnnStatus AclSetOutputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return aclSetOutputTensorAddr(executor, index, tensor, addr);
}
