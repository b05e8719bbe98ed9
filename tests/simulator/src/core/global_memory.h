// Global memory: the ranges that a launch may touch, and those that its blocks did touch.
#ifndef SIMULATOR_GLOBAL_MEMORY_H_
#define SIMULATOR_GLOBAL_MEMORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sim {

// A tensor of the launch.
struct GlobalRange {
    std::string name;
    uint64_t address = 0;
    uint64_t bytes = 0;
};

// Returns an empty string if [address, address + bytes) lies in one of `ranges`, else the reason.
std::string CheckGlobal(const std::vector<GlobalRange>& ranges, uint64_t address, uint64_t bytes, bool write);

// Returns the distance in bytes from the begin of the nearest tensor to `address`; 0 without tensors.
uint64_t OffsetInTensor(const std::vector<GlobalRange>& ranges, uint64_t address);

// Returns a description of the address: "byte 12 of predict".
std::string DescribeGlobal(const std::vector<GlobalRange>& ranges, uint64_t address);

// The bytes of global memory that one block read, or wrote. Adjacent ranges are merged.
class Touched {
public:
    struct Range {
        uint64_t end = 0;
        uint32_t number = 0;  // of the last call that touched it, within its pipe
    };

    // Returns the number of the latest earlier call that touched any of these bytes; 0 for none.
    uint32_t Latest(uint64_t begin, uint64_t end) const;

    void Add(uint64_t begin, uint64_t end, uint32_t number);

    const std::map<uint64_t, Range>& ranges() const { return ranges_; }  // by begin; they do not overlap
    void Clear() { ranges_.clear(); }

private:
    std::map<uint64_t, Range> ranges_;
};

// The accesses of one block to global memory.
struct BlockTraffic {
    int64_t block = 0;
    Touched reads;
    Touched writes;
};

// Returns an empty string; or a text that names two blocks, one of which writes bytes that the other reads or writes:
// nothing orders blocks. `blocks` may be in any order.
std::string FindOverlap(const std::vector<BlockTraffic>& blocks, const std::vector<GlobalRange>& ranges);

}  // namespace sim

#endif  // SIMULATOR_GLOBAL_MEMORY_H_
