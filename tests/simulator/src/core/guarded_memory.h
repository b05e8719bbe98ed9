// Memory between guard pages, and copies that survive touching them.
#ifndef SIMULATOR_GUARDED_MEMORY_H_
#define SIMULATOR_GUARDED_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace sim {

// Alignment of a whole page: the memory then begins right behind a guard page.
constexpr size_t kPageAlignment = 0;

// Returns `bytes` of zeroed memory at a multiple of `alignment` (a power of two up to a page). It ends as close to a
// guard page as the alignment allows, and another guard page lies before it. nullptr if memory ran out. `bytes` > 0.
void* AllocateGuarded(size_t bytes, size_t alignment);

// Frees memory that AllocateGuarded returned for the same `bytes`.
void FreeGuarded(void* memory, size_t bytes, size_t alignment);

// memcpy that does not end the process on an access to unmapped memory, but returns false and the address.
// Thread-safe; calls cannot be nested.
bool CopyOrFault(void* destination, const void* source, size_t bytes, uint64_t* fault_address);

// Sets the text that the fault handler writes to stderr before the process ends, for accesses outside the simulator's
// own copies. nullptr for none. The text must live until the next call.
void DescribeThread(const char* (*describe)());

}  // namespace sim

#endif  // SIMULATOR_GUARDED_MEMORY_H_
