// Report of an ended launch: the rule that the kernel broke, and the place.
#ifndef SIMULATOR_REPORT_H_
#define SIMULATOR_REPORT_H_

#include <stdexcept>
#include <string>

namespace sim {

// Causes of an ended launch. The names are those of ascend_simulator.h and must not change.
enum class Cause {
    kArgument,       // a call got an argument that it does not take
    kBounds,         // a range outside its buffer or tensor
    kFault,          // the processor refused an address: a guard page
    kUnifiedBuffer,  // more UB than the chip has
    kQueue,          // alloc, enque, deque, free out of order
    kPoison,         // a read of bytes that nothing wrote
    kRace,           // two accesses that nothing orders
    kOverlap,        // two blocks write the same bytes
    kFlag,           // set and wait do not match
    kHang,           // a pipe waits for ever
    kUnsupported,    // not on this chip, or not modelled
};

// Returns the name of `cause`, such as "race".
const char* NameOf(Cause cause);

// Thrown by a call of a kernel, and caught by the launch.
class KernelError : public std::runtime_error {
public:
    KernelError(Cause cause, const std::string& message) : std::runtime_error(message), cause_(cause) {}
    Cause cause() const { return cause_; }

private:
    Cause cause_;
};

// Returns the text that snprintf writes.
std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace sim

#endif  // SIMULATOR_REPORT_H_
