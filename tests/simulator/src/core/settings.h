// How launches are simulated.
#ifndef SIMULATOR_SETTINGS_H_
#define SIMULATOR_SETTINGS_H_

#include <cstdint>
#include <string>

#include "chip.h"

namespace sim {

// The order in which the pipes of a core run what was issued; each keeps to flags and queues.
enum class Schedule : uint8_t {
    kEager,   // every call runs as soon as it may: what a host twin does
    kLazy,    // every call as late as it may, the pipe at the end of the data flow first
    kRandom,  // any pipe that may run, by seed
};

struct Settings {
    const Chip* chip = nullptr;  // never null in what Current returns
    Schedule schedule = Schedule::kEager;
    uint64_t seed = 0;
    int32_t threads = 1;  // blocks at a time

    // Whether accesses that no queue, flag or barrier orders end the launch. Off, only the values tell, as on a device.
    bool check_order = true;

    // Whether reads of poison end the launch. Off, the poison reaches the results.
    bool check_poison = true;

    // Whether copies are held against the tensors of the launch. Off, only guard pages do.
    bool check_bounds = true;
};

// Returns the settings of the next launch. Thread-safe. At first they are those of the environment:
// ASCEND_SIMULATOR_CHIP, _SCHEDULE (eager, lazy, random), _SEED, _THREADS.
Settings CurrentSettings();

// Changes one setting by name, "chip", "schedule", "seed", "threads", "check_order", "check_poison" or "check_bounds".
// Returns an empty string, or what was wrong. Thread-safe.
std::string ChangeSetting(const std::string& name, const std::string& value);

}  // namespace sim

#endif  // SIMULATOR_SETTINGS_H_
