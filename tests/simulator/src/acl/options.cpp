#include "options.h"

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "core/report.h"

namespace sim {
namespace {

constexpr uint32_t kMostDevices = 64;
constexpr double kMostMicroseconds = 1e9;

std::mutex g_mutex;

struct Option {
    const char* name;
    const char* variable;
    double least;
    double most;
    void (*set)(Options& options, double value);
};

constexpr Option kOptions[] = {
    {"devices", "ASCEND_SIMULATOR_DEVICES", 1, kMostDevices,
     [](Options& options, double value) { options.devices = static_cast<uint32_t>(value); }},
    {"memory_bytes", "ASCEND_SIMULATOR_MEMORY_BYTES", 0, 1e15,
     [](Options& options, double value) { options.memory_bytes = static_cast<uint64_t>(value); }},
    {"pinned_bytes", "ASCEND_SIMULATOR_PINNED_BYTES", 0, 1e15,
     [](Options& options, double value) { options.pinned_bytes = static_cast<uint64_t>(value); }},
    {"copy_in_us", "ASCEND_SIMULATOR_COPY_IN_US", -1, kMostMicroseconds,
     [](Options& options, double value) { options.copy_in_us = value; }},
    {"kernel_us", "ASCEND_SIMULATOR_KERNEL_US", -1, kMostMicroseconds,
     [](Options& options, double value) { options.kernel_us = value; }},
    {"copy_out_us", "ASCEND_SIMULATOR_COPY_OUT_US", -1, kMostMicroseconds,
     [](Options& options, double value) { options.copy_out_us = value; }},
    {"pace", "ASCEND_SIMULATOR_PACE", 0, 1e6, [](Options& options, double value) { options.pace = value; }},
};

std::string Change(Options& options, const Option& option, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !std::isfinite(value) || value < option.least || value > option.most) {
        return Format("%s is '%s'; it must be a number from %.15g to %.15g", option.name, text.c_str(), option.least,
                      option.most);
    }
    option.set(options, value);
    return "";
}

// Returns how many of `devices` the process may see by ASCEND_RT_VISIBLE_DEVICES. The runtime reads the list up to the
// first entry that is no number, or the number of no device; numbers must ascend. Source: Runtime::GetVisibleDevices.
uint32_t VisibleDevices(const char* list, uint32_t devices) {
    int64_t last = -1;
    uint32_t count = 0;
    for (const char* text = list; std::isdigit(static_cast<unsigned char>(*text)) != 0; ++text) {
        char* end = nullptr;
        const int64_t number = std::strtoll(text, &end, 10);
        if (number >= devices || (*end != ',' && *end != '\0')) {
            break;
        }
        if (number <= last) {
            return 0;
        }
        last = number;
        ++count;
        text = end;
        if (*text == '\0') {
            break;
        }
    }
    return count;
}

Options FromEnvironment() {
    Options options;
    for (const Option& option : kOptions) {
        const char* const value = std::getenv(option.variable);
        const std::string wrong = value == nullptr ? "" : Change(options, option, value);
        if (!wrong.empty()) {
            // A library cannot return an error here, and a run with other options than requested would be worse.
            std::fprintf(stderr, "%s: %s\n", option.variable, wrong.c_str());
            std::abort();
        }
    }
    if (const char* const visible = std::getenv("ASCEND_RT_VISIBLE_DEVICES"); visible != nullptr) {
        options.devices = VisibleDevices(visible, options.devices);
    }
    return options;
}

Options& Shared() {
    static Options options = FromEnvironment();
    return options;
}

}  // namespace

Options CurrentOptions() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return Shared();
}

bool ChangeOption(const std::string& name, const std::string& value, std::string* wrong) {
    for (const Option& option : kOptions) {
        if (name == option.name) {
            const std::lock_guard<std::mutex> lock(g_mutex);
            *wrong = Change(Shared(), option, value);
            return true;
        }
    }
    return false;
}

}  // namespace sim
