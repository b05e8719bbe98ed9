// The UB of one core: its bytes, and the last writer and readers of every 32 bytes.
#ifndef SIMULATOR_UNIFIED_BUFFER_H_
#define SIMULATOR_UNIFIED_BUFFER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "simulator/device.h"

namespace sim {

// For every pipe, the number of its last call that is known to be finished.
using Clock = std::array<uint32_t, kPipes>;

inline void Join(Clock* clock, const Clock& other) {
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        if ((*clock)[pipe] < other[pipe]) {
            (*clock)[pipe] = other[pipe];
        }
    }
}

// Returns whether `clock` knows everything that `other` knows.
inline bool Covers(const Clock& clock, const Clock& other) {
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        if (clock[pipe] < other[pipe]) {
            return false;
        }
    }
    return true;
}

constexpr uint32_t kUbBlock = 32;            // bytes; alignment of UB addresses
constexpr unsigned char kPoisonByte = 0xff;  // 0xffff and 0xffffffff are NaN in every float type

// Rules: see CheckRead and CheckWrite. Not thread-safe: one thread runs a core.
class UnifiedBuffer {
public:
    // An earlier access that nothing orders before the current one.
    struct Conflict {
        bool found = false;
        bool was_write = false;
        Pipe pipe = Pipe::kScalar;
        uint32_t number = 0;   // of the earlier access, within its pipe
        uint32_t address = 0;  // first byte of the first block in conflict
    };

    // Allocates `bytes` of UB; keeps the existing memory if it suffices.
    void Resize(uint64_t bytes);

    unsigned char* At(uint32_t address) { return bytes_.get() + address; }

    // Resets the range to its state after InitBuffer: poison, touched by no call.
    void Reset(uint32_t address, uint32_t bytes);

    // Fills the range with poison, as call `number` of `pipe`: the FreeTensor of a queue.
    void Poison(uint32_t address, uint32_t bytes, Pipe pipe, uint32_t number);

    // Returns the address of the first poisoned block of the range, or -1.
    int64_t FindPoison(uint32_t address, uint64_t bytes) const;

    // Check an access: two accesses to a block, one of them a write, must be ordered. `clock` is what the accessing
    // call knows to be finished.
    Conflict CheckRead(uint32_t address, uint64_t bytes, const Clock& clock) const;
    Conflict CheckWrite(uint32_t address, uint64_t bytes, const Clock& clock) const;

    // Records an access of call `number` of `pipe`.
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
