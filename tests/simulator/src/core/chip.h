// The chips that the simulator knows, with the source of each figure.
#ifndef SIMULATOR_CHIP_H_
#define SIMULATOR_CHIP_H_

#include <cstdint>
#include <string>

namespace sim {

// Figures are from the chip's platform file, hicann/runtime src/platform/platform_config/cann/Ascend<name>.ini, with
// the key in brackets, unless another source is named.
struct Chip {
    const char* name;           // as aclrtGetSocName returns it
    const char* family;         // the compute unit of OpDef::AICore().AddConfig, such as "ascend910b"
    uint32_t vector_cores;      // [vector_core_cnt]
    uint32_t ai_cores;          // [ai_core_cnt]
    uint64_t ub_bytes;          // as PlatformAscendC::GetCoreMemSize(UB) returns it: 910B reserves 256 of [ub_size]
    uint64_t l2_bytes;          // [l2_size]
    uint64_t memory_bytes;      // [memory_size]
    uint32_t clock_mhz;         // [cube_freq]
    uint32_t gm_bytes_a_cycle;  // [ddr_rate], of one AI core

    // Bytes a second between global memory and all cores together; 0 if only gm_bytes_a_cycle is known.
    double gm_bytes_a_second;

    bool is_310b;  // Atlas 200I/500 A2: some calls are not supported there
};

// Returns the chip named `name`, such as "Ascend910B3" or "910B3"; nullptr if there is none.
const Chip* FindChip(const std::string& name);

// Returns the names of all chips, separated by ", ".
std::string ChipNames();

}  // namespace sim

#endif  // SIMULATOR_CHIP_H_
