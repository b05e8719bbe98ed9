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

// What a stream runs. It first waits, then works, then records; each of the three may be missing.
struct Task {
    Stage stage = Stage::kOther;
    std::shared_ptr<Record> waits_for = nullptr;
    std::function<TaskResult()> work = nullptr;  // without the lock
    std::function<void()> zero = nullptr;        // instead of a right result, for FaultMode::kZero
    std::shared_ptr<Record> records = nullptr;
    Fault fault = {};
    std::vector<std::shared_ptr<void>> uses = {};  // of memory, while it is queued
    double submitted_us = 0;                       // virtual time; set by Push
};

// All but the destructor under the lock of the runtime.
class Stream {
public:
    explicit Stream(Context* context);
    ~Stream();  // without the lock; after all its tasks ran, or were dropped
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    Context* context() const { return context_; }

    // Puts a task at the end and returns at once.
    void Push(const Lock& lock, Task task);

    // Waits until all tasks ran, or cannot any more, or for `timeout_ms` (-1: for ever), and returns the stream's first
    // failure, again at every later call; ACL_ERROR_RT_STREAM_SYNC_TIMEOUT where the time ran out.
    TaskResult Synchronize(Lock& lock, int32_t timeout_ms);

    // Returns whether nothing is queued or runs.
    bool IsIdle(const Lock& lock) const;

    // Drops what is queued and cuts off what runs, for good.
    void Drop(const Lock& lock);

    // Likewise, but takes tasks again afterwards; returns once nothing runs.
    void Abort(Lock& lock);

private:
    void Work();
    void Run(Lock& lock, Task& task);
    TaskResult Execute(Lock& lock, Task& task);
    bool Stops() const;  // whether what is queued cannot run any more
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

// Puts a task into the stream `handle` for the function `call`; returns 0, or the code of what is wrong with the
// stream.
int Enqueue(const std::string& call, void* handle, Task task);

}  // namespace sim

#endif  // SIMULATOR_ACL_STREAM_H_
