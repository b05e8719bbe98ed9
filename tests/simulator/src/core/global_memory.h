// What a launch may touch of global memory, and what its blocks did touch.
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

// Returns an empty string where [address, address + bytes) lies in one of `ranges`, else what is wrong with it.
std::string CheckGlobal(const std::vector<GlobalRange>& ranges, uint64_t address, uint64_t bytes, bool write);

// Returns the bytes from the begin of the nearest tensor to `address`; 0 without tensors.
uint64_t OffsetInTensor(const std::vector<GlobalRange>& ranges, uint64_t address);

// Returns the address in words: "byte 12 of predict".
std::string DescribeGlobal(const std::vector<GlobalRange>& ranges, uint64_t address);

// The bytes of global memory that one block accessed in one way. Ranges that touch are kept as one.
class Touched {
public:
    struct Range {
        uint64_t end = 0;
        uint32_t number = 0;  // of the last call that touched it, in its pipe
    };

    // Returns the number of the latest earlier call that touched any of these bytes, 0 for none.
    uint32_t Latest(uint64_t begin, uint64_t end) const;

    void Add(uint64_t begin, uint64_t end, uint32_t number);

    const std::map<uint64_t, Range>& ranges() const { return ranges_; }  // by begin; they do not overlap
    void Clear() { ranges_.clear(); }

private:
    std::map<uint64_t, Range> ranges_;
};

// What one block did to global memory.
struct BlockTraffic {
    int64_t block = 0;
    Touched reads;
    Touched writes;
};

// Returns an empty string, or names two blocks of which one writes what the other reads or writes: nothing orders
// blocks. `blocks` in any order.
std::string FindOverlap(const std::vector<BlockTraffic>& blocks, const std::vector<GlobalRange>& ranges);

}  // namespace sim

#endif  // SIMULATOR_GLOBAL_MEMORY_H_
