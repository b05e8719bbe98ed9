#include "accounts.h"

#include <algorithm>
#include <cinttypes>
#include <limits>
#include <mutex>
#include <vector>

#include "core/report.h"
#include "faults.h"

namespace sim {
namespace {

constexpr const char* kResourceNames[kResources] = {"contexts",      "streams", "events",   "device_memory",
                                                    "pinned_memory", "tensors", "executors"};
constexpr const char* kStageNames[kStages] = {"copy_in", "kernel", "copy_out", "other"};
constexpr size_t kMostViolations = 100;

struct State {
    std::mutex mutex;
    int64_t living[kResources] = {};
    uint64_t reclaimed = 0;
    uint64_t violation_count = 0;
    std::vector<std::string> violations;
    double busy_us[kStages] = {};
    uint64_t tasks[kStages] = {};
    double begin_us = std::numeric_limits<double>::infinity();
    double end_us = 0;
};

// Never destroyed: threads of streams outlive the destruction of static objects at the end of the process.
State& TheState() {
    static State* const state = new State();
    return *state;
}

std::string Quoted(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            quoted += '\\';
        }
        quoted += c == '\n' ? ' ' : c;
    }
    return quoted + "\"";
}

}  // namespace

void Account(Resource resource, int64_t count) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.living[static_cast<int>(resource)] += count;
}

int64_t Living(Resource resource) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    return state.living[static_cast<int>(resource)];
}

void NoteViolation(const std::string& text) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    ++state.violation_count;
    if (state.violations.size() < kMostViolations) {
        state.violations.push_back(text);
    }
}

void AccountReclaimed(uint64_t count) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.reclaimed += count;
}

void AccountTask(Stage stage, double begin_us, double end_us) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.busy_us[static_cast<int>(stage)] += end_us - begin_us;
    ++state.tasks[static_cast<int>(stage)];
    state.begin_us = std::min(state.begin_us, begin_us);
    state.end_us = std::max(state.end_us, end_us);
}

void RestartTime() {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    std::fill(state.busy_us, state.busy_us + kStages, 0.0);
    std::fill(state.tasks, state.tasks + kStages, 0);
    state.begin_us = std::numeric_limits<double>::infinity();
    state.end_us = 0;
}

std::string AccountsReport() {
    const std::string calls = CallCounts();
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    std::string living;
    for (int i = 0; i < kResources; ++i) {
        living += Format("%s\"%s\": %" PRId64, i == 0 ? "" : ", ", kResourceNames[i], state.living[i]);
    }
    std::string violations;
    for (const std::string& violation : state.violations) {
        violations += (violations.empty() ? "" : ", ") + Quoted(violation);
    }
    std::string busy;
    std::string tasks;
    for (int i = 0; i < kStages; ++i) {
        busy += Format("%s\"%s\": %.10g", i == 0 ? "" : ", ", kStageNames[i], state.busy_us[i]);
        tasks += Format("%s\"%s\": %" PRIu64, i == 0 ? "" : ", ", kStageNames[i], state.tasks[i]);
    }
    const double elapsed_us = state.end_us > state.begin_us ? state.end_us - state.begin_us : 0;
    return Format(
        "{\"living\": {%s}, \"reclaimed\": %" PRIu64 ", \"violation_count\": %" PRIu64
        ", \"violations\": [%s], \"virtual_time\": {\"elapsed_us\": %.10g, \"busy_us\": {%s}, \"tasks\": {%s}}, "
        "\"calls\": %s}",
        living.c_str(), state.reclaimed, state.violation_count, violations.c_str(), elapsed_us, busy.c_str(),
        tasks.c_str(), calls.c_str());
}

}  // namespace sim
