// The memory of the device and pinned memory of the host. Thread-safe.
#ifndef SIMULATOR_ACL_DEVICE_MEMORY_H_
#define SIMULATOR_ACL_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace sim {

enum class MemoryKind { kDevice, kPinnedHost };

// Source: ASCEND facts on aclrtMalloc: multiples of 64 bytes.
constexpr size_t kMemoryAlignment = 64;

// Returns nullptr where `bytes` do not fit what is left of the chip's memory, or of the host's.
void* AllocateMemory(MemoryKind kind, size_t bytes);

// Returns false where `memory` is no live allocation of `kind`.
bool FreeMemory(MemoryKind kind, void* memory);

// Returns an empty string where [begin, begin + bytes) lies in one live allocation of the device, else what is wrong.
std::string CheckDeviceRange(const void* begin, size_t bytes);

// Returns how many allocations of `kind` live.
size_t LiveAllocations(MemoryKind kind);

}  // namespace sim

#endif  // SIMULATOR_ACL_DEVICE_MEMORY_H_
