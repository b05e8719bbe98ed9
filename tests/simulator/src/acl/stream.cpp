#include "stream.h"

#include <utility>

namespace sim {

Stream::Stream(Context* context) : context_(context), thread_([this] { Work(); }) {}

Stream::~Stream() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void Stream::Push(std::function<TaskResult()> task) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
}

TaskResult Stream::Synchronize() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return tasks_.empty() && !busy_; });
    return failure_;
}

void Stream::Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
        if (tasks_.empty()) {
            return;
        }
        const std::function<TaskResult()> task = std::move(tasks_.front());
        tasks_.pop_front();
        if (failure_.code == 0) {
            busy_ = true;
            lock.unlock();
            TaskResult result = task();
            lock.lock();
            busy_ = false;
            failure_ = std::move(result);
        }
        changed_.notify_all();
    }
}

}  // namespace sim
