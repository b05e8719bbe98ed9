// State of the process: devices, contexts, streams, events. One lock guards all of it.
#ifndef SIMULATOR_ACL_RUNTIME_H_
#define SIMULATOR_ACL_RUNTIME_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "faults.h"

namespace sim {

class Stream;
using Lock = std::unique_lock<std::mutex>;

// Result of a task: 0, or an error code of the runtime with its text; and its virtual time.
struct TaskResult {
    int code = 0;
    std::string message = {};
    double us = 0;
};

struct Device {
    int number = 0;
    int set_count = 0;  // calls of aclrtSetDevice minus calls of aclrtResetDevice
    int lost_code = 0;  // code that every call returns until the reset
    bool dead = false;  // a reset does not help
};

// A thread uses a device through a context. aclrtSetDevice makes the first one of a device, aclrtCreateContext others.
struct Context {
    Device* device = nullptr;
    bool stops_on_failure = false;
    bool has_failed = false;                           // and stops: no task behind the failure runs
    int poison_code = 0;                               // code that every call returns until the context is destroyed
    std::shared_ptr<Stream> default_stream = nullptr;  // made on first use
};

// One call of aclrtRecordEvent.
struct Record {
    bool done = false;
    double us = 0;  // virtual time
};

struct Event {
    int device = 0;
    uint32_t flags = 0;
    std::shared_ptr<Record> last = nullptr;
};

struct Runtime {
    std::mutex mutex;
    std::condition_variable changed;  // notified of every change
    bool initialized = false;
    double host_us = 0;  // virtual time of the last device event that the host has seen
    std::map<int, Device> devices;
    std::map<int, std::unique_ptr<Context>> primary;  // by device
    std::map<Context*, std::unique_ptr<Context>> created;
    std::map<Stream*, std::shared_ptr<Stream>> streams;
    std::map<Event*, std::unique_ptr<Event>> events;
};

// Never destroyed: threads of streams outlive the destruction of static objects at the end of the process.
Runtime& TheRuntime();

// Returns whether ACL runs: aclInit was called, and aclFinalize was not called since.
bool IsInitialized();

// Returns the context of the calling thread; null if it has none, or if it was destroyed.
Context* CurrentContext(const Lock& lock);
void SetCurrentContext(Context* context);

// Returns 0 and the context of the calling thread, or an error code.
int RequireContext(const Lock& lock, const char* call, Context** context);

// Returns 0 and the device, or an error code.
int RequireDevice(const Lock& lock, int number, const char* call, Device** device);

// Returns 0 and a stream of the calling thread's context, or an error code. A null handle is the default stream.
int RequireStream(const Lock& lock, void* handle, const char* call, Stream** stream);

// Destroys a context and everything in it; releases the lock meanwhile.
void EndContext(Lock& lock, std::unique_ptr<Context> context);

// Entry of every API function: counts the call and applies the faults for it.
class Call {
public:
    enum Kind : uint8_t { kPlain, kQueues };

    // `kind`: whether the function queues a task; a fault then applies to the task.
    explicit Call(std::string function, Kind kind = kPlain);

    // The code to return at once; 0 to go on.
    int code() const { return code_; }

    // The fault to apply to the task.
    const Fault& fault() const { return fault_; }

private:
    Fault fault_;
    int code_ = 0;
};

// Makes every later call of the thread's context or device fail, as `fault` says.
void SpreadFault(const Lock& lock, const Fault& fault, Context* context);

}  // namespace sim

#endif  // SIMULATOR_ACL_RUNTIME_H_
