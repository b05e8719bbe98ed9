// Device memory, and pinned memory of the host. Thread-safe.
#ifndef SIMULATOR_ACL_MEMORY_H_
#define SIMULATOR_ACL_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sim {

enum class MemoryKind : uint8_t { kDevice, kPinnedHost };

// Source: aclrtMalloc and aclrtMallocHost: multiples of 64 bytes.
constexpr size_t kMemoryAlignment = 64;

// Returns nullptr if `bytes` exceed the memory left on the device, or on the host.
void* AllocateMemory(MemoryKind kind, int device, size_t bytes);

// Returns false if `memory` is no live allocation of `kind`. Memory in use by a task is freed and counts as a
// violation.
bool FreeMemory(MemoryKind kind, void* memory);

// Registers memory of the caller as pinned until it is unpinned; returns false if it overlaps a known allocation.
bool PinMemory(int device, void* memory, size_t bytes);
bool UnpinMemory(void* memory);

// Returns an empty string if [begin, begin + bytes) lies in one live allocation of `device`, else the reason.
std::string CheckDeviceRange(const void* begin, size_t bytes, int device);

// Returns whether [begin, begin + bytes) lies in pinned memory.
bool IsPinned(const void* begin, size_t bytes);

// Marks the allocation that contains `address` as used by a task, for the life of the result; null if there is none.
std::shared_ptr<void> UseMemory(const void* address);

// Returns the free and the total bytes of a device.
void MemoryOf(int device, uint64_t* free, uint64_t* total);

// Frees everything that is left on a device and returns the number of allocations.
uint64_t ReclaimMemory(int device);

// Returns the number of live allocations of `kind`.
size_t LiveAllocations(MemoryKind kind);

}  // namespace sim

#endif  // SIMULATOR_ACL_MEMORY_H_
