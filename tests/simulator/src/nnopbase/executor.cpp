// Executors, and the second phase of an operator.
#include "executor.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "acl/last_error.h"
#include "acl/stream.h"
#include "aclnn/aclnn_base.h"
#include "executors.h"
#include "status.h"
#include "tensor.h"

namespace sim {
namespace {

std::mutex g_mutex;
std::map<aclOpExecutor*, std::unique_ptr<aclOpExecutor>> g_live;

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
    // The view's offset counts from the address, as in aclCreateTensor.
    executor->request.tensors[first + index].address =
        reinterpret_cast<uint64_t>(address) + static_cast<uint64_t>(tensor->offset) * BytesOf(tensor->data_type);
    return 0;
}

}  // namespace

aclOpExecutor* KeepExecutor(std::unique_ptr<aclOpExecutor> executor) {
    aclOpExecutor* const kept = executor.get();
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_live[kept] = std::move(executor);
    return kept;
}

size_t LiveExecutors() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return g_live.size();
}

aclnnStatus Run(void* workspace, uint64_t workspace_size, aclOpExecutor* executor, aclrtStream stream) {
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
    int code = 0;
    Stream* const found = FindStream(stream, &code);
    if (found == nullptr) {
        return kAclnnRuntime;
    }
    LaunchRequest request = executor->request;
    request.workspace = reinterpret_cast<uint64_t>(workspace);
    found->Push([request = std::move(request)]() -> TaskResult {
        const LaunchResult result = Launch(request);
        if (result.ok) {
            return {};
        }
        const int fault = result.chip->is_310b ? ACL_ERROR_RT_AICORE_EXCEPTION : ACL_ERROR_RT_VECTOR_CORE_EXCEPTION;
        return {fault, std::string(NameOf(result.cause)) + ": " + result.message};
    });
    if (!executor->repeatable) {
        const std::lock_guard<std::mutex> lock(g_mutex);
        g_live.erase(executor);
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

uint64_t AscendSimulatorLiveHandles() { return sim::LiveTensors() + sim::LiveExecutors(); }

aclnnStatus aclnnInit(const char*) { return 0; }

aclnnStatus aclnnFinalize() { return 0; }

aclnnStatus aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
    if (!sim::IsLiveExecutor(executor)) {
        return sim::NoExecutor("aclSetAclOpExecutorRepeatable");
    }
    executor->repeatable = true;
    return 0;
}

aclnnStatus aclDestroyAclOpExecutor(aclOpExecutor* executor) {
    const std::lock_guard<std::mutex> lock(sim::g_mutex);
    return sim::g_live.erase(executor) != 0 ? 0 : sim::NoExecutor("aclDestroyAclOpExecutor");
}

aclnnStatus aclSetInputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return sim::SetAddress(executor, false, index, tensor, addr, "aclSetInputTensorAddr");
}

aclnnStatus aclSetOutputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return sim::SetAddress(executor, true, index, tensor, addr, "aclSetOutputTensorAddr");
}

aclnnStatus AclSetInputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return aclSetInputTensorAddr(executor, index, tensor, addr);
}

aclnnStatus AclSetOutputTensorAddr(aclOpExecutor* executor, const size_t index, aclTensor* tensor, void* addr) {
    return aclSetOutputTensorAddr(executor, index, tensor, addr);
}
