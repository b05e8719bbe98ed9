// A launch: all blocks of one kernel.
#ifndef SIMULATOR_LAUNCH_H_
#define SIMULATOR_LAUNCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core.h"

namespace sim {

// Arguments of a kernel after its tensors: workspace and tiling data.
using KernelEntry = void (*)();

struct LaunchRequest {
    std::string name;  // of the kernel
    KernelEntry entry = nullptr;
    int64_t blocks = 0;
    std::vector<GlobalRange> tensors;  // in the order of the kernel's arguments
    uint64_t workspace = 0;            // address
    std::vector<unsigned char> tiling;
    uint64_t tiling_key = 0;
};

struct LaunchResult {
    bool ok = true;
    Cause cause = Cause::kArgument;  // if not ok
    std::string message;
    std::string name;
    const Chip* chip = nullptr;
    std::vector<Counters> blocks;  // by block
};

// Runs the blocks, as many at a time as the settings allow, and returns the result; throws nothing. Thread-safe.
LaunchResult Launch(const LaunchRequest& request);

// Returns the result of the launch that ended last in this process. Thread-safe.
LaunchResult LastLaunch();

// Returns the number of launches that have ended in this process. Thread-safe.
uint64_t LaunchCount();

}  // namespace sim

#endif  // SIMULATOR_LAUNCH_H_
