#include "faults.h"

#include <chrono>
#include <cinttypes>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "core/report.h"

namespace sim {
namespace {

struct Rule {
    std::string function;  // without the '*'
    bool prefix = false;
    FaultMode mode = FaultMode::kNone;
    int code = 0;
    uint64_t after = 0;
    uint64_t times = 1;
    uint64_t us = 0;
    int device = -1;
    uint64_t seen = 0;
};

struct State {
    std::mutex mutex;
    std::condition_variable cleared;
    uint64_t clearings = 0;
    std::vector<Rule> rules;
    std::map<std::string, uint64_t> calls;
};

constexpr struct {
    const char* name;
    FaultMode mode;
} kModes[] = {
    {"return", FaultMode::kReturn}, {"async", FaultMode::kAsync}, {"hang", FaultMode::kHang},
    {"poison", FaultMode::kPoison}, {"lose", FaultMode::kLose},   {"dead", FaultMode::kDead},
    {"zero", FaultMode::kZero},     {"skip", FaultMode::kSkip},   {"half", FaultMode::kHalf},
    {"last", FaultMode::kLast},
};

bool NeedsCode(FaultMode mode) {
    return mode == FaultMode::kReturn || mode == FaultMode::kAsync || mode == FaultMode::kPoison ||
           mode == FaultMode::kLose || mode == FaultMode::kDead;
}

bool ParseMode(const std::string& text, FaultMode* mode) {
    for (const auto& known : kModes) {
        if (text == known.name) {
            *mode = known.mode;
            return true;
        }
    }
    return false;
}

bool ParseNumber(const std::string& text, uint64_t* number) {
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 12) {
        return false;
    }
    *number = std::strtoull(text.c_str(), nullptr, 10);
    return true;
}

std::string ParseWord(const std::string& word, Rule* rule) {
    const size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
    uint64_t number = 0;
    if (key == "mode") {
        return ParseMode(value, &rule->mode) ? "" : Format("there is no mode '%s'", value.c_str());
    }
    if (!ParseNumber(value, &number)) {
        return Format("'%s' is no word of a fault; see faults.h", word.c_str());
    }
    if (key == "code") {
        rule->code = static_cast<int>(number);
    } else if (key == "after") {
        rule->after = number;
    } else if (key == "times") {
        rule->times = number;
    } else if (key == "us") {
        rule->us = number;
    } else if (key == "device") {
        rule->device = static_cast<int>(number);
    } else {
        return Format("'%s' is no word of a fault; see faults.h", word.c_str());
    }
    return "";
}

std::string ParseRule(const std::string& text, Rule* rule) {
    std::istringstream words(text);
    std::string word;
    words >> rule->function;
    if (!rule->function.empty() && rule->function.back() == '*') {
        rule->function.pop_back();
        rule->prefix = true;
    }
    while (words >> word) {
        const std::string wrong = ParseWord(word, rule);
        if (!wrong.empty()) {
            return wrong;
        }
    }
    if (rule->mode == FaultMode::kNone && rule->code != 0) {
        rule->mode = FaultMode::kReturn;
    }
    if (NeedsCode(rule->mode) && rule->code == 0) {
        return Format("'%s' needs a code", text.c_str());
    }
    return rule->mode == FaultMode::kNone && rule->us == 0 ? Format("'%s' does nothing", text.c_str()) : "";
}

std::string ParseRules(const std::string& text, std::vector<Rule>* rules) {
    std::istringstream parts(text);
    std::string part;
    while (std::getline(parts, part, ';')) {
        if (part.find_first_not_of(' ') == std::string::npos) {
            continue;
        }
        Rule rule;
        const std::string wrong = ParseRule(part, &rule);
        if (!wrong.empty()) {
            return wrong;
        }
        rules->push_back(rule);
    }
    return "";
}

// Never destroyed: threads of streams outlive the destruction of static objects at the end of the process.
State& TheState() {
    static State* const state = [] {
        auto* const made = new State();
        const char* const text = std::getenv("ASCEND_SIMULATOR_FAULTS");
        const std::string wrong = text == nullptr ? "" : ParseRules(text, &made->rules);
        if (!wrong.empty()) {
            std::fprintf(stderr, "ASCEND_SIMULATOR_FAULTS: %s\n", wrong.c_str());
            std::abort();
        }
        return made;
    }();
    return *state;
}

bool Matches(const Rule& rule, const std::string& function, int device) {
    if (rule.device >= 0 && rule.device != device) {
        return false;
    }
    return rule.prefix ? function.compare(0, rule.function.size(), rule.function) == 0 : function == rule.function;
}

}  // namespace

std::string AddFaults(const std::string& text) {
    std::vector<Rule> rules;
    const std::string wrong = ParseRules(text, &rules);
    if (!wrong.empty()) {
        return wrong;
    }
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.rules.insert(state.rules.end(), rules.begin(), rules.end());
    return "";
}

void ClearFaults() {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.rules.clear();
    ++state.clearings;
    state.cleared.notify_all();
}

Fault NextFault(const std::string& function, int device) {
    State& state = TheState();
    Fault fault;
    uint64_t us = 0;
    {
        const std::lock_guard<std::mutex> lock(state.mutex);
        ++state.calls[function];
        for (Rule& rule : state.rules) {
            if (!Matches(rule, function, device)) {
                continue;
            }
            ++rule.seen;
            if (rule.seen <= rule.after || (rule.times != 0 && rule.seen > rule.after + rule.times)) {
                continue;
            }
            us += rule.us;
            if (fault.mode == FaultMode::kNone) {
                fault = {rule.mode, rule.code};
            }
        }
    }
    if (us > 0) {
        std::this_thread::sleep_for(std::chrono::microseconds(us));
    }
    return fault;
}

uint64_t CountCalls(const std::string& function) {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = state.calls.find(function);
    return found == state.calls.end() ? 0 : found->second;
}

std::string CallCounts() {
    State& state = TheState();
    const std::lock_guard<std::mutex> lock(state.mutex);
    std::string text;
    for (const auto& [function, count] : state.calls) {
        text += Format("%s\"%s\": %" PRIu64, text.empty() ? "" : ", ", function.c_str(), count);
    }
    return "{" + text + "}";
}

void HangUntilCleared() {
    State& state = TheState();
    std::unique_lock<std::mutex> lock(state.mutex);
    const uint64_t before = state.clearings;
    state.cleared.wait(lock, [&] { return state.clearings != before; });
}

}  // namespace sim
