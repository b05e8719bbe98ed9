#include "memory.h"

#include <atomic>
#include <map>
#include <mutex>

#include "accounts.h"
#include "core/guarded_memory.h"
#include "core/report.h"
#include "core/settings.h"
#include "options.h"

namespace sim {
namespace {

struct Allocation {
    MemoryKind kind = MemoryKind::kDevice;
    int device = 0;
    size_t bytes = 0;
    bool owned = true;  // false for memory that the caller allocated
    std::shared_ptr<std::atomic<int>> uses = std::make_shared<std::atomic<int>>(0);
};

using Allocations = std::map<uint64_t, Allocation>;  // by address

struct State {
    std::mutex mutex;
    Allocations live;
    std::map<int, uint64_t> device_bytes;
    uint64_t pinned_bytes = 0;
};

// Never destroyed: threads of streams outlive the destruction of static objects at the end of the process.
State& TheState() {
    static State* const state = new State();
    return *state;
}

Resource ResourceOf(MemoryKind kind) {
    return kind == MemoryKind::kDevice ? Resource::kDeviceMemory : Resource::kPinnedMemory;
}

uint64_t RoomOf(MemoryKind kind) {
    const Options options = CurrentOptions();
    if (kind == MemoryKind::kPinnedHost) {
        return options.pinned_bytes == 0 ? UINT64_MAX : options.pinned_bytes;
    }
    return options.memory_bytes == 0 ? CurrentSettings().chip->memory_bytes : options.memory_bytes;
}

uint64_t& UsedOf(State& state, MemoryKind kind, int device) {
    return kind == MemoryKind::kDevice ? state.device_bytes[device] : state.pinned_bytes;
}

// Returns the allocation that contains `address`, or the end iterator.
Allocations::iterator Find(State& state, uint64_t address) {
    auto found = state.live.upper_bound(address);
    if (found == state.live.begin()) {
        return state.live.end();
    }
    --found;
    return address - found->first < found->second.bytes ? found : state.live.end();
}

// Removes an allocation from the table and returns the memory to free outside the lock.
Allocation Remove(State& state, Allocations::iterator found) {
    const Allocation allocation = found->second;
    UsedOf(state, allocation.kind, allocation.device) -= allocation.owned ? allocation.bytes : 0;
    if (const int uses = *allocation.uses; uses > 0) {
        NoteViolation(Format("%zu bytes of %s memory were freed while %d queued tasks use them", allocation.bytes,
                             allocation.kind == MemoryKind::kDevice ? "device" : "pinned", uses));
    }
    state.live.erase(found);
    Account(ResourceOf(allocation.kind), -1);
    return allocation;
}

}  // namespace

void* AllocateMemory(MemoryKind kind, int device, size_t bytes) {
    State& state = TheState();
    const uint64_t room = RoomOf(kind);
    const std::lock_guard<std::mutex> lock(state.mutex);
    uint64_t& used = UsedOf(state, kind, device);
    if (bytes > room || used > room - bytes) {
        return nullptr;
    }
    void* const memory = AllocateGuarded(bytes, kMemoryAlignment);
    if (memory == nullptr) {
        return nullptr;
    }
    Allocation& allocation = state.live[reinterpret_cast<uint64_t>(memory)];
    allocation.kind = kind;
    allocation.device = device;
    allocation.bytes = bytes;
    used += bytes;
    Account(ResourceOf(kind), 1);
    return memory;
}

bool FreeMemory(MemoryKind kind, void* memory) {
    State& state = TheState();
    size_t bytes = 0;
    {
        const std::lock_guard<std::mutex> lock(state.mutex);
        const auto found = state.live.find(reinterpret_cast<uint64_t>(memory));
        if (found == state.live.end() || found->second.kind != kind || !found->second.owned) {
            return false;
        }
        bytes = Remove(state, found).bytes;
    }
    FreeGuarded(memory, bytes, kMemoryAlignment);
    return true;
}

bool PinMemory(int device, void* memory, size_t bytes) {
    State& state = TheState();
    const uint64_t begin = reinterpret_cast<uint64_t>(memory);
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto next = state.live.lower_bound(begin);
    if (Find(state, begin) != state.live.end() || (next != state.live.end() && next->first < begin + bytes)) {
        return false;
    }
    Allocation& allocation = state.live[begin];
    allocation.kind = MemoryKind::kPinnedHost;
    allocation.device = device;
    allocation.bytes = bytes;
    allocation.owned = false;
    Account(Resource::kPinnedMemory, 1);
    return true;
}

bool UnpinMemory(void* memory) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = state.live.find(reinterpret_cast<uint64_t>(memory));
    if (found == state.live.end() || found->second.owned) {
        return false;
    }
    Remove(state, found);
    return true;
}

std::string CheckDeviceRange(const void* begin, size_t bytes, int device) {
    State& state = TheState();
    const uint64_t address = reinterpret_cast<uint64_t>(begin);
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = Find(state, address);
    if (found == state.live.end() || found->second.kind != MemoryKind::kDevice) {
        return Format("%p is no device memory", begin);
    }
    if (found->second.device != device) {
        return Format("%p is memory of device %d, not of device %d", begin, found->second.device, device);
    }
    const uint64_t offset = address - found->first;
    const uint64_t size = found->second.bytes;
    if (bytes > size - offset) {
        return Format("%zu bytes from byte %llu of an allocation of %llu bytes", bytes,
                      static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size));
    }
    return "";
}

bool IsPinned(const void* begin, size_t bytes) {
    State& state = TheState();
    const uint64_t address = reinterpret_cast<uint64_t>(begin);
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = Find(state, address);
    return found != state.live.end() && found->second.kind == MemoryKind::kPinnedHost &&
           bytes <= found->second.bytes - (address - found->first);
}

std::shared_ptr<void> UseMemory(const void* address) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = Find(state, reinterpret_cast<uint64_t>(address));
    if (found == state.live.end()) {
        return nullptr;
    }
    const std::shared_ptr<std::atomic<int>> uses = found->second.uses;
    ++*uses;
    return std::shared_ptr<void>(nullptr, [uses](void*) { --*uses; });
}

void MemoryOf(int device, uint64_t* free, uint64_t* total) {
    State& state = TheState();
    *total = RoomOf(MemoryKind::kDevice);
    const std::lock_guard<std::mutex> lock(state.mutex);
    *free = *total - state.device_bytes[device];
}

uint64_t ReclaimMemory(int device) {
    State& state = TheState();
    std::map<uint64_t, size_t> freed;
    uint64_t count = 0;
    {
        const std::lock_guard<std::mutex> lock(state.mutex);
        for (auto found = state.live.begin(); found != state.live.end();) {
            const auto next = std::next(found);
            if (found->second.device == device) {
                const uint64_t address = found->first;
                const Allocation allocation = Remove(state, found);
                ++count;
                if (allocation.owned) {
                    freed[address] = allocation.bytes;
                }
            }
            found = next;
        }
    }
    for (const auto& [address, bytes] : freed) {
        FreeGuarded(reinterpret_cast<void*>(address), bytes, kMemoryAlignment);
    }
    return count;
}

size_t LiveAllocations(MemoryKind kind) { return static_cast<size_t>(Living(ResourceOf(kind))); }

}  // namespace sim
