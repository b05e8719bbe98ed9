#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "report.h"

namespace sim {
namespace {

constexpr const char* kDefaultChip = "Ascend910B3";

std::mutex g_mutex;

bool ParseNumber(const std::string& text, uint64_t most, uint64_t* number) {
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 19) {
        return false;
    }
    *number = std::strtoull(text.c_str(), nullptr, 10);
    return *number <= most;
}

std::string Change(Settings& settings, const std::string& name, const std::string& value) {
    uint64_t number = 0;
    if (name == "chip") {
        const Chip* chip = FindChip(value);
        if (chip == nullptr) {
            return Format("chip is '%s'; it must be one of %s", value.c_str(), ChipNames().c_str());
        }
        settings.chip = chip;
    } else if (name == "schedule") {
        if (value != "eager" && value != "lazy" && value != "random") {
            return Format("schedule is '%s'; it must be eager, lazy or random", value.c_str());
        }
        settings.schedule = value == "eager" ? Schedule::kEager : value == "lazy" ? Schedule::kLazy : Schedule::kRandom;
    } else if (name == "seed") {
        if (!ParseNumber(value, UINT64_MAX, &settings.seed)) {
            return Format("seed is '%s'; it must be a number of up to 19 digits", value.c_str());
        }
    } else if (name == "threads") {
        if (!ParseNumber(value, 256, &number) || number == 0) {
            return Format("threads is '%s'; it must be a number from 1 to 256", value.c_str());
        }
        settings.threads = static_cast<int32_t>(number);
    } else if (name == "overflow") {
        if (value != "inf_nan" && value != "saturation") {
            return Format("overflow is '%s'; it must be inf_nan or saturation", value.c_str());
        }
        settings.saturates = value == "saturation";
    } else if (name == "check_order" || name == "check_poison" || name == "check_bounds") {
        if (value != "on" && value != "off") {
            return Format("%s is '%s'; it must be on or off", name.c_str(), value.c_str());
        }
        bool& check = name == "check_order"    ? settings.check_order
                      : name == "check_poison" ? settings.check_poison
                                               : settings.check_bounds;
        check = value == "on";
    } else {
        return Format(
            "there is no setting '%s'; there are chip, schedule, seed, threads, overflow, check_order, check_poison "
            "and check_bounds",
            name.c_str());
    }
    return "";
}

Settings FromEnvironment() {
    Settings settings;
    settings.chip = FindChip(kDefaultChip);
    const char* const variables[][2] = {{"ASCEND_SIMULATOR_CHIP", "chip"},
                                        {"ASCEND_SIMULATOR_SCHEDULE", "schedule"},
                                        {"ASCEND_SIMULATOR_SEED", "seed"},
                                        {"ASCEND_SIMULATOR_THREADS", "threads"},
                                        {"ASCEND_SIMULATOR_OVERFLOW", "overflow"}};
    for (const auto& [variable, name] : variables) {
        const char* value = std::getenv(variable);
        if (value == nullptr) {
            continue;
        }
        const std::string wrong = Change(settings, name, value);
        if (!wrong.empty()) {
            // A library cannot return an error here, and a run with other settings than requested would be worse.
            std::fprintf(stderr, "%s: %s\n", variable, wrong.c_str());
            std::abort();
        }
    }
    return settings;
}

Settings& Shared() {
    static Settings settings = FromEnvironment();
    return settings;
}

}  // namespace

Settings CurrentSettings() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return Shared();
}

std::string ChangeSetting(const std::string& name, const std::string& value) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return Change(Shared(), name, value);
}

}  // namespace sim
