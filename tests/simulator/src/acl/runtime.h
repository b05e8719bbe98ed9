// What the process holds of its devices: contexts, streams, events. One lock guards all of it.
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

// What a task came to: 0, or an error code of the runtime with its text; and its virtual time.
struct TaskResult {
    int code = 0;
    std::string message = {};
    double us = 0;
};

struct Device {
    int number = 0;
    int set_count = 0;  // aclrtSetDevice without aclrtResetDevice
    int lost_code = 0;  // what every call returns until the reset
    bool dead = false;  // a reset does not help
};

// Threads see a device through one. A device has a first one from aclrtSetDevice on; aclrtCreateContext makes more.
struct Context {
    Device* device = nullptr;
    bool stops_on_failure = false;
    bool has_failed = false;                           // and stops: nothing behind the failure runs
    int poison_code = 0;                               // what every call returns until it is destroyed
    std::shared_ptr<Stream> default_stream = nullptr;  // made when first used
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
    std::condition_variable changed;  // anything
    bool initialized = false;
    double host_us = 0;  // virtual time of what the host has seen of the devices
    std::map<int, Device> devices;
    std::map<int, std::unique_ptr<Context>> primary;  // by device
    std::map<Context*, std::unique_ptr<Context>> created;
    std::map<Stream*, std::shared_ptr<Stream>> streams;
    std::map<Event*, std::unique_ptr<Event>> events;
};

// Never destroyed: threads of streams outlive what the process destroys at its end.
Runtime& TheRuntime();

// Returns whether aclInit was called, and not aclFinalize.
bool IsInitialized();

// The context of the calling thread; null where it has none, or it was destroyed.
Context* CurrentContext(const Lock& lock);
void SetCurrentContext(Context* context);

// Returns 0 and the context of the calling thread, or the code of what is wrong with it.
int RequireContext(const Lock& lock, const char* call, Context** context);

// Returns 0 and the device, or the code of what is wrong with it.
int RequireDevice(const Lock& lock, int number, const char* call, Device** device);

// Returns 0 and the stream of the calling thread's context, or a code. A null handle is the default stream.
int RequireStream(const Lock& lock, void* handle, const char* call, Stream** stream);

// Ends what is left in a context, and the context; releases the lock meanwhile.
void EndContext(Lock& lock, std::unique_ptr<Context> context);

// The begin of every function: counts it, and does to it what a fault says.
class Call {
public:
    enum Kind : uint8_t { kPlain, kQueues };

    // `kind`: whether the function puts a task into a stream, which then is what a fault happens to.
    explicit Call(std::string function, Kind kind = kPlain);

    // What to return at once; 0 to go on.
    int code() const { return code_; }

    // What is to happen to the task.
    const Fault& fault() const { return fault_; }

private:
    Fault fault_;
    int code_ = 0;
};

// Makes every call of the thread's context, or device, fail from now on, as `fault` says.
void SpreadFault(const Lock& lock, const Fault& fault, Context* context);

}  // namespace sim

#endif  // SIMULATOR_ACL_RUNTIME_H_
