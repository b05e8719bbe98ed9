// Injected faults: a function fails with a code, after a number of calls, once or for ever.
#ifndef SIMULATOR_ACL_FAULTS_H_
#define SIMULATOR_ACL_FAULTS_H_

#include <cstdint>
#include <string>

namespace sim {

// The effect of a fault.
enum class FaultMode : uint8_t {
    kNone,
    kReturn,  // the call returns the code and does nothing
    kAsync,   // the call returns 0; the queued task fails with the code, which a later call returns, as on a device
    kHang,    // the queued task never ends; a call that queues nothing does not return until the faults are cleared
    kPoison,  // as kAsync, and then every call in the context returns the code
    kLose,    // as kPoison, for the whole device, until it is reset
    kDead,    // as kLose, and a reset does not help
    kZero,    // a launch or a copy writes zeros; no code
    kSkip,    // the queued task is skipped; no code
    kHalf,    // a launch or a copy writes only the first half; no code
    kLast,    // a launch or a copy writes only the last half; no code
};

struct Fault {
    FaultMode mode = FaultMode::kNone;
    int code = 0;
};

// Adds faults, separated by ';'. Each is a list of words: first a function, in which a '*' at the end matches any rest,
// then any of
//   code=507015   the code to return; required by all modes but hang, zero, skip, half and last
//   mode=async    return (the default), async, hang, poison, lose, dead, zero, skip, half, last
//   after=3       number of calls that succeed first; default 0
//   times=1       number of calls that fail; 0 for all that follow; default 1
//   us=1000       real time that each of these calls takes longer; with this word alone the calls do not fail
//   device=2      only in contexts of this device
// Returns an empty string; or the reason why it added none. Thread-safe.
// The variable ASCEND_SIMULATOR_FAULTS has the initial faults.
std::string AddFaults(const std::string& text);

// Removes all faults and lets hung calls return. Thread-safe.
void ClearFaults();

// Counts a call of `function` in a context of `device` (-1 for none), waits for the time that a fault asks for, and
// returns the fault of this call. Thread-safe; holds no lock while it waits.
Fault NextFault(const std::string& function, int device);

// Returns the number of calls of `function`. Thread-safe.
uint64_t CountCalls(const std::string& function);

// Returns the counts of all functions as a JSON object. Thread-safe.
std::string CallCounts();

// Returns once ClearFaults has been called. Thread-safe.
void HangUntilCleared();

}  // namespace sim

#endif  // SIMULATOR_ACL_FAULTS_H_
