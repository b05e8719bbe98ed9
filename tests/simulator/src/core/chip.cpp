#include "chip.h"

namespace sim {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

// Source: asc-devkit docs/zh/guide, L2-Cache切分.md: "about 1.6 TB/s" for a chip with an L2 of 192 MB.
constexpr double kGmOf192MiBL2 = 1.6e12;

constexpr Chip kChips[] = {
    {"Ascend910B1", "ascend910b", 48, 24, 196352, 192 * kMiB, 64 * kGiB, 1850, 32, kGmOf192MiBL2, false},
    {"Ascend910B2", "ascend910b", 48, 24, 196352, 192 * kMiB, 64 * kGiB, 1800, 32, kGmOf192MiBL2, false},
    {"Ascend910B3", "ascend910b", 40, 20, 196352, 192 * kMiB, 64 * kGiB, 1800, 32, kGmOf192MiBL2, false},
    {"Ascend910B4", "ascend910b", 40, 20, 196352, 96 * kMiB, 32 * kGiB, 1500, 32, 0.0, false},
    {"Ascend310B1", "ascend310b", 1, 1, 253952, 4 * kMiB, 32 * kGiB, 1224, 17, 0.0, true},
};

}  // namespace

const Chip* FindChip(const std::string& name) {
    for (const Chip& chip : kChips) {
        if (name == chip.name || "Ascend" + name == chip.name) {
            return &chip;
        }
    }
    return nullptr;
}

std::string ChipNames() {
    std::string names;
    for (const Chip& chip : kChips) {
        names += (names.empty() ? "" : ", ") + std::string(chip.name);
    }
    return names;
}

}  // namespace sim
