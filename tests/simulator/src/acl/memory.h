// The memory of the devices and pinned memory of the host. Thread-safe.
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

// Returns nullptr where `bytes` do not fit what is left of the device's memory, or of the host's.
void* AllocateMemory(MemoryKind kind, int device, size_t bytes);

// Returns false where `memory` is no live allocation of `kind`. Memory that a task uses is freed and a violation noted.
bool FreeMemory(MemoryKind kind, void* memory);

// Takes memory that the caller allocated for pinned until it is unpinned; false where it overlaps what is known.
bool PinMemory(int device, void* memory, size_t bytes);
bool UnpinMemory(void* memory);

// Returns an empty string where [begin, begin + bytes) lies in one live allocation of `device`, else what is wrong.
std::string CheckDeviceRange(const void* begin, size_t bytes, int device);

// Returns whether [begin, begin + bytes) lies in pinned memory.
bool IsPinned(const void* begin, size_t bytes);

// Keeps note, while it lives, that a task uses the allocation that `address` lies in; empty where it lies in none.
std::shared_ptr<void> UseMemory(const void* address);

// Returns the free and the total bytes of a device.
void MemoryOf(int device, uint64_t* free, uint64_t* total);

// Frees everything that is left of a device and returns how many allocations that were.
uint64_t ReclaimMemory(int device);

// Returns how many allocations of `kind` live.
size_t LiveAllocations(MemoryKind kind);

}  // namespace sim

#endif  // SIMULATOR_ACL_MEMORY_H_
