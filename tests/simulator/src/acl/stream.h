// A stream: tasks that run one after another on a thread of their own.
#ifndef SIMULATOR_ACL_STREAM_H_
#define SIMULATOR_ACL_STREAM_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace sim {

class Context;

// What a task came to: 0, or an error code of the runtime with its text.
struct TaskResult {
    int code = 0;
    std::string message;
};

// Thread-safe.
class Stream {
public:
    explicit Stream(Context* context);
    ~Stream();  // after all its tasks ran
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    Context* context() const { return context_; }

    // Puts a task at the end and returns at once. After a task failed, those behind it do not run.
    void Push(std::function<TaskResult()> task);

    // Waits until all tasks ran; returns the first failure, again at every later call.
    TaskResult Synchronize();

private:
    void Work();

    Context* const context_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<TaskResult()>> tasks_;
    bool busy_ = false;
    bool ending_ = false;
    TaskResult failure_;
    std::thread thread_;  // last: it uses the others
};

// Device and its streams as threads see them. One for a device exists from aclrtSetDevice on, more by
// aclrtCreateContext.
class Context {
public:
    explicit Context(int device) : device_(device) {}
    int device() const { return device_; }

private:
    const int device_;
};

// Returns the context of the calling thread, nullptr for none.
Context* CurrentContext();

// Returns 0, or the code for a thread without a context, having kept what `call` has to say.
int RequireContext(const char* call);

// Returns whether `handle` is a stream that lives, of the calling thread's context. A null handle is the default stream
// of the context. Otherwise returns nullptr and sets `code` and the last error.
Stream* FindStream(void* handle, int* code);

// Returns whether aclInit was called, and not aclFinalize.
bool IsInitialized();

}  // namespace sim

#endif  // SIMULATOR_ACL_STREAM_H_
