#include "cost.h"

#include <algorithm>

namespace sim {
namespace {

// Source: asc-devkit docs/zh/guide, 分析性能数据.md: 20 to 21 us of head cost with all cores of an Atlas A2. It grows
// with the number of cores (设置合适的核数和算子Kernel类型.md). No source says by how much; the estimate takes it to be
// proportional.
constexpr double kLaunchOfAllCoresUs = 20.5;

// Source: asc-devkit docs/zh/guide, 尽量一次搬运较大的数据块.md: copies of 16 KB and more "usually" reach the best
// bandwidth. Read here as nine tenths at 16 KB, so the fixed cost is one ninth of the time of those bytes.
constexpr double kCopyCallBytes = 16384.0 / 9.0;

// Source: asc-devkit docs/zh/guide, 基于全局掩码复用的计算性能优化.md: a call on `count` elements sets and resets its
// mask with four calls of one cycle each.
constexpr double kVectorCallCycles = 4.0;

// Source: asc-devkit docs, Add.md: one iteration takes 256 bytes. One a cycle is 11.06 TOPS of float multiply-adds on
// 48 cores at 1800 MHz, the peak that 分析性能数据.md names.
constexpr double kCyclesARepeat = 1.0;

// A block waits more than it overlaps if its time line exceeds the work of its busiest pipe by this factor.
constexpr double kWaitingFactor = 1.25;

double GmBytesASecond(const Chip& chip) {
    return chip.gm_bytes_a_second > 0 ? chip.gm_bytes_a_second
                                      : 1e6 * chip.clock_mhz * chip.gm_bytes_a_cycle * chip.ai_cores;
}

const char* Bound(const CostEstimate& cost) {
    constexpr const char* kPipeNames[kPipes] = {"scalar", "vector", "copies in", "copies out"};
    if (cost.launch_us > std::max(cost.global_memory_us, cost.block_us)) {
        return "launch";
    }
    if (cost.global_memory_us >= cost.block_us) {
        return "global memory";
    }
    const double* const busiest = std::max_element(cost.pipe_us, cost.pipe_us + kPipes);
    return cost.block_us > kWaitingFactor * *busiest ? "pipes that wait for one another"
                                                     : kPipeNames[busiest - cost.pipe_us];
}

}  // namespace

std::vector<CostConstant> CostConstants(const Chip& chip) {
    const bool published = chip.gm_bytes_a_second > 0;
    return {
        {"global memory", GmBytesASecond(chip) / 1e9, "GB/s",
         published ? "asc-devkit guide, L2-Cache切分.md: about 1.6 TB/s beside an L2 of 192 MB"
                   : "platform file of the chip: ddr_rate x ai_core_cnt x cube_freq"},
        {"global memory of one core", 1e-3 * chip.clock_mhz * chip.gm_bytes_a_cycle, "GB/s",
         "platform file of the chip: ddr_rate x cube_freq; each vector core and each direction is given all of it"},
        {"cost of a copy call", kCopyCallBytes, "bytes",
         "asc-devkit guide, 尽量一次搬运较大的数据块.md: best from 16 KB on; read as nine tenths at 16 KB"},
        {"clock", static_cast<double>(chip.clock_mhz), "MHz", "platform file of the chip: cube_freq"},
        {"vector iteration of 256 bytes", kCyclesARepeat, "cycles",
         "asc-devkit Add.md, and the peak of 11.06 TOPS in the guide, 分析性能数据.md"},
        {"cost of a vector call", kVectorCallCycles, "cycles",
         "asc-devkit guide, 基于全局掩码复用的计算性能优化.md: four mask calls of one cycle"},
        {"launch with all cores", kLaunchOfAllCoresUs, "us",
         "asc-devkit guide, 分析性能数据.md: 20 to 21 us on Atlas A2; fewer cores in proportion, which is our reading"},
    };
}

double CopyCycles(const Chip& chip, uint64_t bytes) {
    return (static_cast<double>(bytes) + kCopyCallBytes) / chip.gm_bytes_a_cycle;
}

double VectorCycles(uint64_t repeats) { return static_cast<double>(repeats) * kCyclesARepeat + kVectorCallCycles; }

CostEstimate EstimateCost(const Chip& chip, const std::vector<Counters>& blocks) {
    CostEstimate cost;
    Counters total;
    for (const Counters& block : blocks) {
        total.Add(block);
    }
    const double bytes = static_cast<double>(total.in.bytes + total.out.bytes + total.scalar_read_bytes);
    cost.global_memory_us = bytes / (GmBytesASecond(chip) * 1e-6);
    for (int pipe = 0; pipe < kPipes; ++pipe) {
        cost.pipe_us[pipe] = total.busy_cycles[pipe] / chip.clock_mhz;
    }
    cost.block_us = total.cycles / chip.clock_mhz;
    cost.launch_us = kLaunchOfAllCoresUs * static_cast<double>(blocks.size()) / chip.vector_cores;
    cost.total_us = cost.launch_us + std::max(cost.global_memory_us, cost.block_us);
    cost.bound = Bound(cost);
    return cost;
}

}  // namespace sim
