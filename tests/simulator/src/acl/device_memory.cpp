#include "device_memory.h"

#include <map>
#include <mutex>

#include "core/guarded_memory.h"
#include "core/report.h"
#include "core/settings.h"

namespace sim {
namespace {

struct Allocation {
    MemoryKind kind;
    size_t bytes;
};

std::mutex g_mutex;
std::map<uint64_t, Allocation> g_live;  // by address
uint64_t g_device_bytes = 0;

}  // namespace

void* AllocateMemory(MemoryKind kind, size_t bytes) {
    const uint64_t room = CurrentSettings().chip->memory_bytes;
    {
        const std::lock_guard<std::mutex> lock(g_mutex);
        if (kind == MemoryKind::kDevice && (bytes > room || g_device_bytes > room - bytes)) {
            return nullptr;
        }
    }
    void* const memory = AllocateGuarded(bytes, kMemoryAlignment);
    if (memory == nullptr) {
        return nullptr;
    }
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_live[reinterpret_cast<uint64_t>(memory)] = {kind, bytes};
    g_device_bytes += kind == MemoryKind::kDevice ? bytes : 0;
    return memory;
}

bool FreeMemory(MemoryKind kind, void* memory) {
    size_t bytes = 0;
    {
        const std::lock_guard<std::mutex> lock(g_mutex);
        const auto found = g_live.find(reinterpret_cast<uint64_t>(memory));
        if (found == g_live.end() || found->second.kind != kind) {
            return false;
        }
        bytes = found->second.bytes;
        g_device_bytes -= kind == MemoryKind::kDevice ? bytes : 0;
        g_live.erase(found);
    }
    FreeGuarded(memory, bytes, kMemoryAlignment);
    return true;
}

std::string CheckDeviceRange(const void* begin, size_t bytes) {
    const uint64_t address = reinterpret_cast<uint64_t>(begin);
    const std::lock_guard<std::mutex> lock(g_mutex);
    auto found = g_live.upper_bound(address);
    if (found == g_live.begin() || std::prev(found)->second.kind != MemoryKind::kDevice) {
        return Format("%p is no device memory", begin);
    }
    --found;
    const uint64_t offset = address - found->first;
    const uint64_t size = found->second.bytes;
    if (offset > size || bytes > size - offset) {
        return Format("%zu bytes from byte %llu of an allocation of %llu bytes", bytes,
                      static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size));
    }
    return "";
}

size_t LiveAllocations(MemoryKind kind) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    size_t count = 0;
    for (const auto& [address, allocation] : g_live) {
        count += allocation.kind == kind ? 1 : 0;
    }
    return count;
}

}  // namespace sim
