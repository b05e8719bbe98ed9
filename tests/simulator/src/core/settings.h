// Settings of the simulation of launches.
#ifndef SIMULATOR_SETTINGS_H_
#define SIMULATOR_SETTINGS_H_

#include <cstdint>
#include <string>

#include "chip.h"

namespace sim {

// The order in which the pipes of a core run the issued calls. Every schedule obeys flags and queues.
enum class Schedule : uint8_t {
    kEager,   // every call runs as soon as possible, as on a host twin
    kLazy,    // every call runs as late as possible, the pipe at the end of the data flow first
    kRandom,  // any pipe that can run, chosen by seed
};

struct Settings {
    const Chip* chip = nullptr;  // never null in the result of Current
    Schedule schedule = Schedule::kEager;
    uint64_t seed = 0;
    int32_t threads = 1;  // blocks that run at a time

    // Whether results saturate; otherwise they become infinite or NaN. Atlas 200I/500 A2 always saturates, other chips
    // if told to.
    bool saturates = false;

    // Whether accesses that no queue, flag or barrier orders end the launch. If not, only the values show, as on a
    // device.
    bool check_order = true;

    // Whether reads of poison end the launch. If not, the poison reaches the results.
    bool check_poison = true;

    // Whether copies are checked against the tensors of the launch. If not, only guard pages check them.
    bool check_bounds = true;
};

// Returns the settings of the next launch. Thread-safe. The initial settings are those of the environment:
// ASCEND_SIMULATOR_CHIP, _SCHEDULE (eager, lazy, random), _SEED, _THREADS, _OVERFLOW (inf_nan, saturation).
Settings CurrentSettings();

// Changes one setting: "chip", "schedule", "seed", "threads", "overflow", "check_order", "check_poison" or
// "check_bounds". Returns an empty string, or the reason why the value is refused. Thread-safe.
std::string ChangeSetting(const std::string& name, const std::string& value);

}  // namespace sim

#endif  // SIMULATOR_SETTINGS_H_
