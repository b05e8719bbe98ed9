// Estimate of the time that a launch takes on its chip. It is only an estimate: no device was measured.
//
// Every call has a number of cycles. It starts when its pipe is free, S has issued it, and the flags that it waits for
// are set. So a block's time line shows whether its pipes overlap. Blocks are assumed to run in parallel, and together
// to move no more bytes a second than global memory does.
#ifndef SIMULATOR_COST_H_
#define SIMULATOR_COST_H_

#include <cstdint>
#include <string>
#include <vector>

#include "chip.h"
#include "counters.h"

namespace sim {

// A figure that the estimate depends on.
struct CostConstant {
    const char* name;
    double value;
    const char* unit;
    const char* source;
};

struct CostEstimate {
    double global_memory_us = 0;  // all bytes of all blocks at the bandwidth of the chip
    double pipe_us[kPipes] = {};  // of the block with the busiest pipe
    double block_us = 0;          // the longest time line of a block
    double launch_us = 0;         // before the first block computes
    double total_us = 0;          // launch, and the larger of global memory and block
    const char* bound = "";       // the bottleneck: "launch", "global memory", "copies in", "vector", "copies out", or
                                  // "pipes that wait for one another"
};

// Returns the figures assumed for `chip`.
std::vector<CostConstant> CostConstants(const Chip& chip);

// Returns the cycles of one core for a copy between global memory and UB, and for a vector call of `repeats`
// iterations.
double CopyCycles(const Chip& chip, uint64_t bytes);
double VectorCycles(uint64_t repeats);

CostEstimate EstimateCost(const Chip& chip, const std::vector<Counters>& blocks);

}  // namespace sim

#endif  // SIMULATOR_COST_H_
