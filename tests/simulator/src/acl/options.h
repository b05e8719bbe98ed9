// How the runtime around the launches is simulated: devices, memory, time.
#ifndef SIMULATOR_ACL_OPTIONS_H_
#define SIMULATOR_ACL_OPTIONS_H_

#include <cstdint>
#include <string>

namespace sim {

struct Options {
    uint32_t devices = 1;

    // Memory of a device, and pinned memory of the host; 0 for that of the chip, and for no limit.
    uint64_t memory_bytes = 0;
    uint64_t pinned_bytes = 0;

    // What a task takes in virtual time, in microseconds. Negative: a copy by its bytes, a launch by its estimate.
    double copy_in_us = -1;
    double kernel_us = -1;
    double copy_out_us = -1;

    // How much real time passes with virtual time; 0 for as little as it takes.
    double pace = 0;
};

// Returns the options of the next call. Thread-safe. At first they are those of the environment:
// ASCEND_SIMULATOR_DEVICES, _MEMORY_BYTES, _PINNED_BYTES, _COPY_IN_US, _KERNEL_US, _COPY_OUT_US, _PACE.
Options CurrentOptions();

// Changes one option by its name; true where there is one of that name. `wrong` is empty, or what was wrong.
// Thread-safe.
bool ChangeOption(const std::string& name, const std::string& value, std::string* wrong);

}  // namespace sim

#endif  // SIMULATOR_ACL_OPTIONS_H_
