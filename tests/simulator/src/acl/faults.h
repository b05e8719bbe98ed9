// Faults on demand: this function, this code, after so many calls, once or for ever.
#ifndef SIMULATOR_ACL_FAULTS_H_
#define SIMULATOR_ACL_FAULTS_H_

#include <cstdint>
#include <string>

namespace sim {

// How a fault shows.
enum class FaultMode : uint8_t {
    kNone,
    kReturn,  // the call returns the code and does nothing
    kAsync,   // the call returns 0; what it queued fails with the code, which a later call returns, as on a device
    kHang,    // what it queued never ends; a call that queues nothing does not return until the faults are cleared
    kPoison,  // as kAsync, and from then on every call in the context returns the code
    kLose,    // as kPoison, for the device, until it is reset
    kDead,    // as kLose, and a reset does not help
    kZero,    // a launch writes zeros; no code
    kSkip,    // what it queued is left out; no code
};

struct Fault {
    FaultMode mode = FaultMode::kNone;
    int code = 0;
};

// Adds faults, separated by ';', each of words: a function (a '*' at its end stands for any rest), then any of
//   code=507015   what is returned; needed by all modes but hang, zero and skip
//   mode=async    return (the default), async, hang, poison, lose, dead, zero, skip
//   after=3       calls that go well first; 0
//   times=1       calls that do not; 0 for all that follow; 1
//   us=1000       real time that each of these calls takes longer; alone, nothing else is wrong with them
//   device=2      only in contexts of this device
// Returns an empty string, or what was wrong, and then adds none. Thread-safe.
// At first there are those of the variable ASCEND_SIMULATOR_FAULTS.
std::string AddFaults(const std::string& text);

// Removes all faults and lets the calls that hang return. Thread-safe.
void ClearFaults();

// Counts a call of `function` in a context of `device` (-1 for none), waits as long as it is told to, and returns what
// is to go wrong with it. Thread-safe; holds no lock while it waits.
Fault NextFault(const std::string& function, int device);

// Returns how often `function` was called. Thread-safe.
uint64_t CountCalls(const std::string& function);

// Returns the counts of all functions as a JSON object. Thread-safe.
std::string CallCounts();

// Returns once ClearFaults has been called. Thread-safe.
void HangUntilCleared();

}  // namespace sim

#endif  // SIMULATOR_ACL_FAULTS_H_
