#include "global_memory.h"

#include <algorithm>
#include <cinttypes>

#include "report.h"

namespace sim {
namespace {

struct Access {
    uint64_t begin;
    uint64_t end;
    int64_t block;
    bool write;
};

// Returns the distance in bytes from `address` to the range; 0 inside it.
uint64_t Distance(const GlobalRange& range, uint64_t address) {
    if (address < range.address) {
        return range.address - address;
    }
    return address < range.address + range.bytes ? 0 : address - (range.address + range.bytes);
}

const GlobalRange* Nearest(const std::vector<GlobalRange>& ranges, uint64_t address) {
    const auto nearest = std::min_element(ranges.begin(), ranges.end(), [&](const auto& a, const auto& b) {
        return Distance(a, address) < Distance(b, address);
    });
    return nearest == ranges.end() ? nullptr : &*nearest;
}

}  // namespace

std::string CheckGlobal(const std::vector<GlobalRange>& ranges, uint64_t address, uint64_t bytes, bool write) {
    for (const GlobalRange& range : ranges) {
        if (address >= range.address && address - range.address <= range.bytes &&
            bytes <= range.bytes - (address - range.address)) {
            return "";
        }
    }
    const GlobalRange* nearest = Nearest(ranges, address);
    const char* verb = write ? "writes" : "reads";
    if (nearest == nullptr) {
        return Format("%s global memory, but the launch has no tensors", verb);
    }
    const uint64_t end = nearest->address + nearest->bytes;
    if (address >= nearest->address && address < end) {
        return Format("%s %" PRIu64 " bytes past the end of %s: [%" PRIu64 ", %" PRIu64 ") of %" PRIu64 " bytes", verb,
                      address + bytes - end, nearest->name.c_str(), address - nearest->address,
                      address - nearest->address + bytes, nearest->bytes);
    }
    if (address < nearest->address) {
        return Format("%s %" PRIu64 " bytes, beginning %" PRIu64 " bytes before %s", verb, bytes,
                      nearest->address - address, nearest->name.c_str());
    }
    return Format("%s %" PRIu64 " bytes, beginning %" PRIu64 " bytes past the end of %s", verb, bytes, address - end,
                  nearest->name.c_str());
}

uint64_t OffsetInTensor(const std::vector<GlobalRange>& ranges, uint64_t address) {
    const GlobalRange* nearest = Nearest(ranges, address);
    return nearest == nullptr ? 0 : address - nearest->address;
}

std::string DescribeGlobal(const std::vector<GlobalRange>& ranges, uint64_t address) {
    const GlobalRange* nearest = Nearest(ranges, address);
    if (nearest == nullptr) {
        return Format("address 0x%" PRIx64, address);
    }
    return Format("byte %" PRId64 " of %s, which has %" PRIu64 " bytes",
                  static_cast<int64_t>(address - nearest->address), nearest->name.c_str(), nearest->bytes);
}

uint32_t Touched::Latest(uint64_t begin, uint64_t end) const {
    uint32_t latest = 0;
    auto at = ranges_.upper_bound(begin);
    if (at != ranges_.begin()) {
        --at;
    }
    for (; at != ranges_.end() && at->first < end; ++at) {
        if (at->second.end > begin) {
            latest = std::max(latest, at->second.number);
        }
    }
    return latest;
}

void Touched::Add(uint64_t begin, uint64_t end, uint32_t number) {
    auto at = ranges_.upper_bound(begin);
    if (at != ranges_.begin() && std::prev(at)->second.end >= begin) {
        --at;
    }
    while (at != ranges_.end() && at->first <= end) {
        begin = std::min(begin, at->first);
        end = std::max(end, at->second.end);
        at = ranges_.erase(at);
    }
    ranges_[begin] = {end, number};
}

std::string FindOverlap(const std::vector<BlockTraffic>& blocks, const std::vector<GlobalRange>& ranges) {
    std::vector<Access> accesses;
    for (const BlockTraffic& traffic : blocks) {
        for (const auto& [begin, range] : traffic.reads.ranges()) {
            accesses.push_back({begin, range.end, traffic.block, false});
        }
        for (const auto& [begin, range] : traffic.writes.ranges()) {
            accesses.push_back({begin, range.end, traffic.block, true});
        }
    }
    std::sort(accesses.begin(), accesses.end(), [](const Access& a, const Access& b) { return a.begin < b.begin; });
    // The farthest end so far, of writes and of all accesses. Each also keeps the farthest end of another block,
    // because a block may touch its own bytes again.
    Access writes[2] = {{0, 0, -1, true}, {0, 0, -1, true}};
    Access all[2] = {{0, 0, -1, false}, {0, 0, -1, false}};
    const auto note = [](Access(&farthest)[2], const Access& access) {
        if (access.end > farthest[0].end) {
            if (access.block != farthest[0].block) {
                farthest[1] = farthest[0];
            }
            farthest[0] = access;
        } else if (access.block != farthest[0].block && access.end > farthest[1].end) {
            farthest[1] = access;
        }
    };
    for (const Access& access : accesses) {
        for (const Access& earlier : access.write ? all : writes) {
            if (earlier.block >= 0 && earlier.block != access.block && earlier.end > access.begin) {
                return Format("block %" PRId64 " %s what block %" PRId64 " %s: %" PRIu64 " bytes from %s on",
                              access.block, access.write ? "writes" : "reads", earlier.block,
                              earlier.write ? "writes" : "reads", std::min(access.end, earlier.end) - access.begin,
                              DescribeGlobal(ranges, access.begin).c_str());
            }
        }
        note(all, access);
        if (access.write) {
            note(writes, access);
        }
    }
    return "";
}

}  // namespace sim
