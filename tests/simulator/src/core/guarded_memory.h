// Memory between pages that nobody may touch, and copies that survive touching them.
#ifndef SIMULATOR_GUARDED_MEMORY_H_
#define SIMULATOR_GUARDED_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace sim {

// A whole page as alignment: the memory then begins right behind a guard page.
constexpr size_t kPageAlignment = 0;

// Returns `bytes` of zeroed memory on a multiple of `alignment` (a power of two up to a page), as close before a guard
// page as the alignment allows, with another guard page before it; nullptr where there is no memory. `bytes` > 0.
void* AllocateGuarded(size_t bytes, size_t alignment);

// Gives back what AllocateGuarded returned for the same `bytes`.
void FreeGuarded(void* memory, size_t bytes, size_t alignment);

// memcpy, but an access to memory that is not there returns false and the address instead of ending the process.
// Thread-safe; may be nested in nothing.
bool CopyOrFault(void* destination, const void* source, size_t bytes, uint64_t* fault_address);

// Tells the handler of such faults what the thread is doing, for accesses that no call of the simulator makes: they end
// the process, after this text went to stderr. nullptr for nothing. The text must live until the next call.
void DescribeThread(const char* (*describe)());

}  // namespace sim

#endif  // SIMULATOR_GUARDED_MEMORY_H_
