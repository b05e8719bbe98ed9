// Options of the simulated runtime around the launches: devices, memory, time.
#ifndef SIMULATOR_ACL_OPTIONS_H_
#define SIMULATOR_ACL_OPTIONS_H_

#include <cstdint>
#include <string>

namespace sim {

struct Options {
    uint32_t devices = 1;

    // Limit of a device's memory (0: that of the chip) and of pinned memory (0: none), in bytes.
    uint64_t memory_bytes = 0;
    uint64_t pinned_bytes = 0;

    // Virtual time of a task, in microseconds. If negative: a copy takes time by its bytes, a launch by its estimate.
    double copy_in_us = -1;
    double kernel_us = -1;
    double copy_out_us = -1;

    // Real time per virtual time; 0 for as little as possible.
    double pace = 0;
};

// Returns the options for the next call. Thread-safe. The initial options are those of the environment:
// ASCEND_SIMULATOR_DEVICES (ASCEND_RT_VISIBLE_DEVICES may choose among them), _MEMORY_BYTES, _PINNED_BYTES,
// _COPY_IN_US, _KERNEL_US, _COPY_OUT_US, _PACE.
Options CurrentOptions();

// Sets one option; returns whether there is one of this name. `wrong` is empty, or the reason why the value is refused.
// Thread-safe.
bool ChangeOption(const std::string& name, const std::string& value, std::string* wrong);

}  // namespace sim

#endif  // SIMULATOR_ACL_OPTIONS_H_
