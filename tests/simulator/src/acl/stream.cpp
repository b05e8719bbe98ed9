#include "stream.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "acl/acl.h"
#include "options.h"

namespace sim {
namespace {

// Returns the virtual time of a task that reports `us` itself.
double Cost(Stage stage, double us) {
    const Options options = CurrentOptions();
    const double told = stage == Stage::kCopyIn    ? options.copy_in_us
                        : stage == Stage::kKernel  ? options.kernel_us
                        : stage == Stage::kCopyOut ? options.copy_out_us
                                                   : 0;
    return told < 0 ? us : told;
}

// Does the work of a task, with the silent faults that a launch can have.
TaskResult DoWork(const Task& task) {
    const FaultMode mode = task.fault.mode;
    if (task.result == nullptr || mode == FaultMode::kNone) {
        return task.work();
    }
    const std::vector<unsigned char> before(task.result, task.result + task.result_bytes);
    TaskResult result = task.work();
    const size_t half = task.result_bytes / 2;
    if (mode == FaultMode::kZero) {
        std::fill_n(task.result, task.result_bytes, static_cast<unsigned char>(0));
    } else if (mode == FaultMode::kHalf) {
        std::copy(before.begin() + static_cast<ptrdiff_t>(half), before.end(), task.result + half);
    } else if (mode == FaultMode::kLast) {
        std::copy_n(before.begin(), half, task.result);
    }
    return result;
}

}  // namespace

Stream::Stream(Context* context) : context_(context), thread_([this] { Work(); }) {}

Stream::~Stream() {
    {
        const Lock lock(TheRuntime().mutex);
        ending_ = true;
        TheRuntime().changed.notify_all();
    }
    thread_.join();
}

void Stream::Push(const Lock&, Task task) {
    task.submitted_us = TheRuntime().host_us;
    tasks_.push_back(std::move(task));
    TheRuntime().changed.notify_all();
}

TaskResult Stream::Synchronize(Lock& lock, int32_t timeout_ms) {
    Runtime& runtime = TheRuntime();
    const auto is_over = [this, &lock] { return IsIdle(lock) || failure_.code != 0; };
    if (timeout_ms < 0) {
        runtime.changed.wait(lock, is_over);
    } else if (!runtime.changed.wait_for(lock, std::chrono::milliseconds(timeout_ms), is_over)) {
        return {ACL_ERROR_RT_STREAM_SYNC_TIMEOUT, "the stream has tasks left"};
    }
    if (failure_.code == 0) {
        runtime.host_us = std::max(runtime.host_us, clock_us_);
    }
    return failure_;
}

bool Stream::IsIdle(const Lock&) const { return tasks_.empty() && !busy_; }

void Stream::Drop(const Lock&) {
    dropped_ = true;
    tasks_.clear();
    TheRuntime().changed.notify_all();
}

void Stream::Abort(Lock& lock) {
    Runtime& runtime = TheRuntime();
    aborting_ = true;
    tasks_.clear();
    runtime.changed.notify_all();
    runtime.changed.wait(lock, [this] { return !busy_; });
    aborting_ = false;
    failure_ = {};
}

void Stream::Work() {
    Runtime& runtime = TheRuntime();
    Lock lock(runtime.mutex);
    while (true) {
        runtime.changed.wait(lock, [this] { return ending_ || dropped_ || !tasks_.empty(); });
        if (dropped_ || tasks_.empty()) {
            return;
        }
        Task task = std::move(tasks_.front());
        tasks_.pop_front();
        busy_ = true;
        Run(lock, task);
        task = {};
        busy_ = false;
        runtime.changed.notify_all();
    }
}

void Stream::Run(Lock& lock, Task& task) {
    Runtime& runtime = TheRuntime();
    const auto may_go_on = [&] { return IsCutOff() || Stops() || task.waits_for == nullptr || task.waits_for->done; };
    runtime.changed.wait(lock, may_go_on);
    if (IsCutOff() || Stops()) {
        return;
    }
    const double waited_us = task.waits_for == nullptr ? 0 : task.waits_for->us;
    const double begin_us = std::max({clock_us_, task.submitted_us, waited_us});
    const auto begin = std::chrono::steady_clock::now();
    const TaskResult result = Execute(lock, task);
    const double cost_us = result.code == 0 ? Cost(task.stage, result.us) : 0;
    const double pace = CurrentOptions().pace;
    if (pace > 0 && cost_us > 0) {
        const auto real = std::chrono::duration<double, std::micro>(cost_us * pace);
        runtime.changed.wait_until(lock, begin + std::chrono::duration_cast<std::chrono::nanoseconds>(real),
                                   [this] { return IsCutOff(); });
    }
    if (IsCutOff()) {
        return;
    }
    clock_us_ = begin_us + cost_us;
    if (cost_us > 0) {
        AccountTask(task.stage, begin_us, clock_us_);
    }
    if (result.code != 0 && failure_.code == 0) {
        failure_ = result;
        context_->has_failed = true;
    }
    if (task.records != nullptr && !Stops()) {
        task.records->done = true;
        task.records->us = clock_us_;
    }
}

TaskResult Stream::Execute(Lock& lock, Task& task) {
    Runtime& runtime = TheRuntime();
    if (const int code = context_->device->lost_code) {
        return {code, "the device is lost"};
    }
    if (const int code = context_->poison_code) {
        return {code, "the context is poisoned"};
    }
    switch (task.fault.mode) {
        case FaultMode::kAsync:
        case FaultMode::kPoison:
        case FaultMode::kLose:
        case FaultMode::kDead:
            SpreadFault(lock, task.fault, context_);
            return {task.fault.code, "a fault that was asked for"};
        case FaultMode::kHang:
            runtime.changed.wait(lock, [this] { return IsCutOff(); });
            return {};
        case FaultMode::kSkip:
            return {};
        case FaultMode::kNone:
        case FaultMode::kReturn:
        case FaultMode::kZero:
        case FaultMode::kHalf:
        case FaultMode::kLast:
            break;
    }
    if (task.work == nullptr) {
        return {};
    }
    lock.unlock();
    TaskResult result = DoWork(task);
    lock.lock();
    return result;
}

bool Stream::Stops() const { return context_->stops_on_failure && context_->has_failed; }

int Enqueue(const std::string& call, void* handle, Task task) {
    const Lock lock(TheRuntime().mutex);
    Stream* stream = nullptr;
    if (const int code = RequireStream(lock, handle, call.c_str(), &stream)) {
        return code;
    }
    stream->Push(lock, std::move(task));
    return ACL_SUCCESS;
}

}  // namespace sim
