// The C functions of ACL for memory. Source of codes and rules: hicann/runtime include/external/acl,
// docs/zh/api_ref/11_memory_management.md.
#include <cstring>

#include "accounts.h"
#include "acl/acl.h"
#include "core/guarded_memory.h"
#include "core/report.h"
#include "last_error.h"
#include "memory.h"
#include "runtime.h"
#include "stream.h"

using sim::Call;
using sim::FailWith;
using sim::Format;
using sim::Lock;
using sim::MemoryKind;
using sim::TheRuntime;

namespace {

// Default cost of a copy in virtual time: PCIe 4.0 x16, about 25 GB/s, and a fixed start.
constexpr double kCopyStartUs = 10;
constexpr double kCopyBytesAUs = 25e3;

// Returns 0 and the device of the thread's context, or an error code.
int DeviceOfThread(const char* call, int* device) {
    const Lock lock(TheRuntime().mutex);
    sim::Context* context = nullptr;
    if (const int code = sim::RequireContext(lock, call, &context)) {
        return code;
    }
    *device = context->device->number;
    return ACL_SUCCESS;
}

int Allocate(MemoryKind kind, void** memory, size_t size, const char* call) {
    if (memory == nullptr || size == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s of %zu bytes to %p", call, size, (void*)memory));
    }
    int device = 0;
    if (const int code = DeviceOfThread(call, &device)) {
        return code;
    }
    *memory = sim::AllocateMemory(kind, device, size);
    if (*memory == nullptr) {
        return FailWith(ACL_ERROR_RT_MEMORY_ALLOCATION, Format("%s: no %zu bytes are left", call, size));
    }
    return ACL_SUCCESS;
}

int Free(MemoryKind kind, void* memory, const char* call) {
    {
        const Lock lock(TheRuntime().mutex);
        const sim::Context* const context = sim::CurrentContext(lock);
        if (context != nullptr && context->device->lost_code != 0) {
            return FailWith(context->device->lost_code, Format("%s: the device is lost", call));
        }
    }
    return sim::FreeMemory(kind, memory)
               ? ACL_SUCCESS
               : FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s: %p is no memory of this kind", call, memory));
}

bool ReadsDevice(aclrtMemcpyKind kind) {
    return kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
}

bool WritesDevice(aclrtMemcpyKind kind) {
    return kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
}

// Returns 0, or the error code for an invalid copy.
int CheckCopy(const char* call, void* dst, size_t dest_max, const void* src, size_t count, aclrtMemcpyKind kind) {
    if (dst == nullptr || src == nullptr || count == 0 || count > dest_max) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s of %zu bytes from %p to %p, which has room for %zu",
                                                           call, count, src, dst, dest_max));
    }
    int device = 0;
    if (const int code = DeviceOfThread(call, &device)) {
        return code;
    }
    std::string wrong = WritesDevice(kind) ? sim::CheckDeviceRange(dst, count, device) : "";
    wrong += ReadsDevice(kind) ? sim::CheckDeviceRange(src, count, device) : "";
    return wrong.empty() ? ACL_SUCCESS : FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s: %s", call, wrong.c_str()));
}

sim::TaskResult Copy(void* dst, const void* src, size_t count) {
    uint64_t fault = 0;
    if (!sim::CopyOrFault(dst, src, count, &fault)) {
        return {ACL_ERROR_RT_SYS_DMA,
                Format("a copy of %zu bytes found no memory at %#llx", count, static_cast<unsigned long long>(fault))};
    }
    return {0, "", kCopyStartUs + static_cast<double>(count) / kCopyBytesAUs};
}

}  // namespace

aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy) {
    const Call call("aclrtMalloc");
    return call.code() != 0 ? call.code() : Allocate(MemoryKind::kDevice, devPtr, size, "aclrtMalloc");
}

aclError aclrtFree(void* devPtr) {
    const Call call("aclrtFree");
    return call.code() != 0 ? call.code() : Free(MemoryKind::kDevice, devPtr, "aclrtFree");
}

aclError aclrtMallocHost(void** hostPtr, size_t size) {
    const Call call("aclrtMallocHost");
    return call.code() != 0 ? call.code() : Allocate(MemoryKind::kPinnedHost, hostPtr, size, "aclrtMallocHost");
}

aclError aclrtFreeHost(void* hostPtr) {
    const Call call("aclrtFreeHost");
    return call.code() != 0 ? call.code() : Free(MemoryKind::kPinnedHost, hostPtr, "aclrtFreeHost");
}

aclError aclrtHostRegister(void* ptr, uint64_t size, aclrtHostRegisterType, void** devPtr) {
    const Call call("aclrtHostRegister");
    if (call.code() != 0) {
        return call.code();
    }
    int device = 0;
    if (const int code = DeviceOfThread("aclrtHostRegister", &device)) {
        return code;
    }
    if (ptr == nullptr || size == 0 || devPtr == nullptr || !sim::PinMemory(device, ptr, size)) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtHostRegister of no memory, or of memory that is pinned");
    }
    *devPtr = ptr;
    return ACL_SUCCESS;
}

aclError aclrtHostUnregister(void* ptr) {
    const Call call("aclrtHostUnregister");
    if (call.code() != 0) {
        return call.code();
    }
    return sim::UnpinMemory(ptr)
               ? ACL_SUCCESS
               : FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtHostUnregister of what is not registered");
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free, size_t* total) {
    const Call call("aclrtGetMemInfo");
    if (call.code() != 0) {
        return call.code();
    }
    int device = 0;
    if (const int code = DeviceOfThread("aclrtGetMemInfo", &device)) {
        return code;
    }
    uint64_t left = 0;
    uint64_t all = 0;
    sim::MemoryOf(device, &left, &all);
    *free = left;
    *total = all;
    return ACL_SUCCESS;
}

aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind) {
    const Call call("aclrtMemcpy");
    if (call.code() != 0) {
        return call.code();
    }
    if (const int code = CheckCopy("aclrtMemcpy", dst, destMax, src, count, kind)) {
        return code;
    }
    const sim::TaskResult result = Copy(dst, src, count);
    return result.code == 0 ? ACL_SUCCESS : FailWith(result.code, "aclrtMemcpy: " + result.message);
}

aclError aclrtMemcpyAsync(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind,
                          aclrtStream stream) {
    const Call call("aclrtMemcpyAsync", Call::kQueues);
    if (call.code() != 0) {
        return call.code();
    }
    if (const int code = CheckCopy("aclrtMemcpyAsync", dst, destMax, src, count, kind)) {
        return code;
    }
    sim::Task task;
    task.stage = ReadsDevice(kind)    ? sim::Stage::kCopyOut
                 : WritesDevice(kind) ? sim::Stage::kCopyIn
                                      : sim::Stage::kOther;
    task.work = [=] { return Copy(dst, src, count); };
    task.result = static_cast<unsigned char*>(dst);
    task.result_bytes = count;
    task.fault = call.fault();
    task.uses = {sim::UseMemory(dst), sim::UseMemory(src)};
    const bool pinned =
        (WritesDevice(kind) || sim::IsPinned(dst, count)) && (ReadsDevice(kind) || sim::IsPinned(src, count));
    if (const int code = sim::Enqueue("aclrtMemcpyAsync", stream, std::move(task))) {
        return code;
    }
    if (pinned) {
        return ACL_SUCCESS;
    }
    Lock lock(TheRuntime().mutex);
    sim::Stream* found = nullptr;
    if (const int code = sim::RequireStream(lock, stream, "aclrtMemcpyAsync", &found)) {
        return code;
    }
    const sim::TaskResult result = found->Synchronize(lock, -1);
    return result.code == 0 ? ACL_SUCCESS : FailWith(result.code, result.message);
}

aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count) {
    const Call call("aclrtMemset");
    if (call.code() != 0) {
        return call.code();
    }
    if (devPtr == nullptr || count > maxCount) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                        Format("aclrtMemset of %zu bytes at %p, which has room for %zu", count, devPtr, maxCount));
    }
    int device = 0;
    if (const int code = DeviceOfThread("aclrtMemset", &device)) {
        return code;
    }
    const std::string wrong = sim::CheckDeviceRange(devPtr, count, device);
    if (!wrong.empty()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemset: " + wrong);
    }
    std::memset(devPtr, value, count);
    return ACL_SUCCESS;
}
