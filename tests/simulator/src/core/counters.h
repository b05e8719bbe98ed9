// Counters of the calls of a block.
#ifndef SIMULATOR_COUNTERS_H_
#define SIMULATOR_COUNTERS_H_

#include <algorithm>
#include <cstdint>

#include "simulator/device.h"

namespace sim {

constexpr int kVectorOps = 6;  // of sim::VectorOp

// Copies in one direction.
struct CopyCounters {
    uint64_t calls = 0;
    uint64_t bytes = 0;           // of global memory
    uint64_t smallest_bytes = 0;  // of one call; 0 without calls
    uint64_t largest_bytes = 0;

    void Count(uint64_t call_bytes) {
        smallest_bytes = calls == 0 ? call_bytes : std::min(smallest_bytes, call_bytes);
        largest_bytes = std::max(largest_bytes, call_bytes);
        bytes += call_bytes;
        ++calls;
    }

    void Add(const CopyCounters& other) {
        if (other.calls == 0) {
            return;
        }
        smallest_bytes = calls == 0 ? other.smallest_bytes : std::min(smallest_bytes, other.smallest_bytes);
        largest_bytes = std::max(largest_bytes, other.largest_bytes);
        bytes += other.bytes;
        calls += other.calls;
    }
};

struct Counters {
    CopyCounters in;
    CopyCounters out;
    uint64_t scalar_reads = 0;  // of global memory
    uint64_t scalar_read_bytes = 0;
    uint64_t vector_calls[kVectorOps] = {};
    uint64_t vector_elements[kVectorOps] = {};
    uint64_t vector_repeats = 0;    // of 256 bytes
    uint64_t unaligned_copies = 0;  // that do not begin a multiple of 512 bytes behind the begin of their tensor
    uint64_t tiles = 0;             // tensors that queues at VECOUT carried
    uint64_t ub_bytes = 0;          // of InitBuffer

    // The time line that cost.h estimates: the cycles that each pipe works, and the cycles from the first call to the
    // end of the last one, waits for flags included. For several blocks: the largest.
    double busy_cycles[kPipes] = {};
    double cycles = 0;

    uint64_t VectorCalls() const {
        uint64_t calls = 0;
        for (const uint64_t of_op : vector_calls) {
            calls += of_op;
        }
        return calls;
    }

    void Add(const Counters& other) {
        in.Add(other.in);
        out.Add(other.out);
        scalar_reads += other.scalar_reads;
        scalar_read_bytes += other.scalar_read_bytes;
        for (int op = 0; op < kVectorOps; ++op) {
            vector_calls[op] += other.vector_calls[op];
            vector_elements[op] += other.vector_elements[op];
        }
        vector_repeats += other.vector_repeats;
        unaligned_copies += other.unaligned_copies;
        tiles += other.tiles;
        ub_bytes = std::max(ub_bytes, other.ub_bytes);
        for (int pipe = 0; pipe < kPipes; ++pipe) {
            busy_cycles[pipe] = std::max(busy_cycles[pipe], other.busy_cycles[pipe]);
        }
        cycles = std::max(cycles, other.cycles);
    }
};

}  // namespace sim

#endif  // SIMULATOR_COUNTERS_H_
