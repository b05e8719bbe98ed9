// A stream: tasks that run one after another on a thread of their own.
#ifndef SIMULATOR_ACL_STREAM_H_
#define SIMULATOR_ACL_STREAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "accounts.h"
#include "faults.h"
#include "runtime.h"

namespace sim {

// A task of a stream: it first waits, then works, then records; each of the three may be missing.
struct Task {
    Stage stage = Stage::kOther;
    std::shared_ptr<Record> waits_for = nullptr;
    std::function<TaskResult()> work = nullptr;  // runs without the lock
    unsigned char* result = nullptr;             // what `work` writes, for FaultMode::kZero, kHalf and kLast
    uint64_t result_bytes = 0;
    std::shared_ptr<Record> records = nullptr;
    Fault fault = {};
    std::vector<std::shared_ptr<void>> uses = {};  // marks of memory in use while the task is queued
    double submitted_us = 0;                       // virtual time; set by Push
};

// All methods but the destructor need the lock of the runtime.
class Stream {
public:
    explicit Stream(Context* context);
    ~Stream();  // without the lock; after all tasks have run or were dropped
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    Context* context() const { return context_; }

    // Appends a task and returns at once.
    void Push(const Lock& lock, Task task);

    // Waits until all tasks have run, or can no longer run, or for `timeout_ms` (-1: for ever). Returns the stream's
    // first failure, at every later call too; ACL_ERROR_RT_STREAM_SYNC_TIMEOUT after the time-out.
    TaskResult Synchronize(Lock& lock, int32_t timeout_ms);

    // Returns whether no task is queued or running.
    bool IsIdle(const Lock& lock) const;

    // Drops the queued tasks and interrupts the running one, for good.
    void Drop(const Lock& lock);

    // Drops the tasks as above, but accepts tasks again afterwards; returns when no task runs.
    void Abort(Lock& lock);

private:
    void Work();
    void Run(Lock& lock, Task& task);
    TaskResult Execute(Lock& lock, Task& task);
    bool Stops() const;  // whether the queued tasks can no longer run
    bool IsCutOff() const { return dropped_ || aborting_; }

    Context* const context_;
    std::deque<Task> tasks_;
    bool busy_ = false;
    bool ending_ = false;
    bool dropped_ = false;
    bool aborting_ = false;
    TaskResult failure_;
    double clock_us_ = 0;
    std::thread thread_;  // last: it uses the others
};

// Appends a task to the stream `handle` for the function `call`; returns 0, or the error code for an invalid stream.
int Enqueue(const std::string& call, void* handle, Task task);

}  // namespace sim

#endif  // SIMULATOR_ACL_STREAM_H_
