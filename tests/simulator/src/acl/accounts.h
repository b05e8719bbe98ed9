// What lives, and what was done that a device would not forgive. Thread-safe.
#ifndef SIMULATOR_ACL_ACCOUNTS_H_
#define SIMULATOR_ACL_ACCOUNTS_H_

#include <cstdint>
#include <string>

namespace sim {

enum class Resource : uint8_t {
    kContext,
    kStream,
    kEvent,
    kDeviceMemory,
    kPinnedMemory,
    kTensor,
    kExecutor,
};
constexpr int kResources = 7;

// Counts `count` more, or fewer, that live.
void Account(Resource resource, int64_t count);

// Returns how many live.
int64_t Living(Resource resource);

// Notes a use that goes unpunished here: memory freed under a task, an executor changed while it is queued.
void NoteViolation(const std::string& text);

// Returns all of it as JSON: living by resource, those that a reset took back, violations, calls, virtual time.
std::string AccountsReport();

// Counts resources that aclrtResetDevice took back because nobody had given them back.
void AccountReclaimed(uint64_t count);

// Stages of the way of a block, for virtual time.
enum class Stage : uint8_t { kCopyIn, kKernel, kCopyOut, kOther };
constexpr int kStages = 4;

// Counts a task that ran from `begin_us` to `end_us` in virtual time.
void AccountTask(Stage stage, double begin_us, double end_us);

// Forgets the virtual time so far.
void RestartTime();

}  // namespace sim

#endif  // SIMULATOR_ACL_ACCOUNTS_H_
