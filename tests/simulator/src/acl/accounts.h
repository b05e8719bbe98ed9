// Accounts: live resources, and uses that a device would not forgive. Thread-safe.
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

// Adds `count`, which may be negative, to the number of live resources.
void Account(Resource resource, int64_t count);

// Returns the number of live resources.
int64_t Living(Resource resource);

// Records a violation that has no effect here: memory freed under a task, or an executor changed while it is queued.
void NoteViolation(const std::string& text);

// Returns the accounts as JSON: live resources by kind, those that a reset freed, violations, calls, virtual time.
std::string AccountsReport();

// Counts resources that the program leaked and aclrtResetDevice freed.
void AccountReclaimed(uint64_t count);

// Stages of a block, for virtual time.
enum class Stage : uint8_t { kCopyIn, kKernel, kCopyOut, kOther };
constexpr int kStages = 4;

// Counts a task that ran from `begin_us` to `end_us` of virtual time.
void AccountTask(Stage stage, double begin_us, double end_us);

// Resets the virtual time.
void RestartTime();

}  // namespace sim

#endif  // SIMULATOR_ACL_ACCOUNTS_H_
