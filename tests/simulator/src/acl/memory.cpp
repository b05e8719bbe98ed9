// The C functions of libascendcl.so on memory. Source of codes and rules: hicann/runtime include/external/acl.
#include <cstring>

#include "acl/acl.h"
#include "core/report.h"
#include "device_memory.h"
#include "last_error.h"
#include "stream.h"

using sim::FailWith;
using sim::Format;
using sim::MemoryKind;

namespace {

int Allocate(MemoryKind kind, void** memory, size_t size, const char* call) {
    if (memory == nullptr || size == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                        Format("%s of %zu bytes to %p", call, size, static_cast<void*>(memory)));
    }
    if (const int code = sim::RequireContext(call)) {
        return code;
    }
    *memory = sim::AllocateMemory(kind, size);
    if (*memory == nullptr) {
        return FailWith(ACL_ERROR_RT_MEMORY_ALLOCATION, Format("%s: no %zu bytes are left", call, size));
    }
    return ACL_SUCCESS;
}

}  // namespace

aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy) {
    return Allocate(MemoryKind::kDevice, devPtr, size, "aclrtMalloc");
}

aclError aclrtFree(void* devPtr) {
    return sim::FreeMemory(MemoryKind::kDevice, devPtr)
               ? ACL_SUCCESS
               : FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("aclrtFree: %p is no device memory", devPtr));
}

aclError aclrtMallocHost(void** hostPtr, size_t size) {
    return Allocate(MemoryKind::kPinnedHost, hostPtr, size, "aclrtMallocHost");
}

aclError aclrtFreeHost(void* hostPtr) {
    return sim::FreeMemory(MemoryKind::kPinnedHost, hostPtr)
               ? ACL_SUCCESS
               : FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("aclrtFreeHost: %p is no pinned memory", hostPtr));
}

aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind) {
    if (dst == nullptr || src == nullptr || count > destMax) {
        return FailWith(
            ACL_ERROR_RT_PARAM_INVALID,
            Format("aclrtMemcpy of %zu bytes from %p to %p, which has room for %zu", count, src, dst, destMax));
    }
    if (const int code = sim::RequireContext("aclrtMemcpy")) {
        return code;
    }
    const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
    std::string wrong = to_device ? sim::CheckDeviceRange(dst, count) : "";
    wrong += from_device ? sim::CheckDeviceRange(src, count) : "";
    if (!wrong.empty()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemcpy: " + wrong);
    }
    std::memcpy(dst, src, count);
    return ACL_SUCCESS;
}

aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count) {
    if (devPtr == nullptr || count > maxCount) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                        Format("aclrtMemset of %zu bytes at %p, which has room for %zu", count, devPtr, maxCount));
    }
    if (const int code = sim::RequireContext("aclrtMemset")) {
        return code;
    }
    const std::string wrong = sim::CheckDeviceRange(devPtr, count);
    if (!wrong.empty()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemset: " + wrong);
    }
    std::memset(devPtr, value, count);
    return ACL_SUCCESS;
}
