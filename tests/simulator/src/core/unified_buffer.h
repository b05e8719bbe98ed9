// The UB of one core: its bytes, and for every 32 bytes who wrote and read them last.
#ifndef SIMULATOR_UNIFIED_BUFFER_H_
#define SIMULATOR_UNIFIED_BUFFER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "simulator/device.h"

namespace sim {

// For every pipe the number of the last of its calls that is known to be finished.
using Clock = std::array<uint32_t, kPipes>;

inline void Join(Clock* clock, const Clock& other) {
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        if ((*clock)[pipe] < other[pipe]) {
            (*clock)[pipe] = other[pipe];
        }
    }
}

constexpr uint32_t kUbBlock = 32;            // bytes; what UB addresses are aligned to
constexpr unsigned char kPoisonByte = 0xff;  // 0xffff and 0xffffffff are NaN in every float type

// Source of the rules: see CheckRead and CheckWrite. Not thread-safe: a core is one thread.
class UnifiedBuffer {
public:
    // An earlier access that nothing orders before the one at hand.
    struct Conflict {
        bool found = false;
        bool was_write = false;
        Pipe pipe = Pipe::kScalar;
        uint32_t number = 0;   // of the earlier access in its pipe
        uint32_t address = 0;  // first byte of the first block in conflict
    };

    // Makes room for `bytes` of UB; keeps what there is where it suffices.
    void Resize(uint64_t bytes);

    unsigned char* At(uint32_t address) { return bytes_.get() + address; }

    // Makes the range as it is after InitBuffer: poison, touched by nobody.
    void Reset(uint32_t address, uint32_t bytes);

    // Fills the range with poison: a call of `pipe` with `number`, the FreeTensor of a queue.
    void Poison(uint32_t address, uint32_t bytes, Pipe pipe, uint32_t number);

    // Returns the address of the first block of the range that is poison, or -1.
    int64_t FindPoison(uint32_t address, uint64_t bytes) const;

    // Two accesses to a block, one of them a write, must be ordered: `clock` is what the accessing call knows to be
    // finished.
    Conflict CheckRead(uint32_t address, uint64_t bytes, const Clock& clock) const;
    Conflict CheckWrite(uint32_t address, uint64_t bytes, const Clock& clock) const;

    // Notes an access of `pipe` with `number`.
    void NoteRead(uint32_t address, uint64_t bytes, Pipe pipe, uint32_t number);
    void NoteWrite(uint32_t address, uint64_t bytes, Pipe pipe, uint32_t number);

private:
    Conflict Check(const std::vector<uint32_t>* numbers, uint32_t address, uint64_t bytes, const Clock& clock) const;

    struct Free {
        void operator()(unsigned char* bytes) const;
    };
    std::unique_ptr<unsigned char[], Free> bytes_;
    uint64_t size_ = 0;
    std::vector<unsigned char> poisoned_;   // by block
    std::vector<uint32_t> writes_[kPipes];  // by block; 0 for none
    std::vector<uint32_t> reads_[kPipes];
};

}  // namespace sim

#endif  // SIMULATOR_UNIFIED_BUFFER_H_
