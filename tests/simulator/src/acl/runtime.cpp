#include "runtime.h"

#include <utility>
#include <vector>

#include "accounts.h"
#include "acl/acl.h"
#include "core/report.h"
#include "last_error.h"
#include "options.h"
#include "stream.h"

namespace sim {
namespace {

thread_local Context* t_context = nullptr;

int DeviceOfThread() {
    const Lock lock(TheRuntime().mutex);
    const Context* const context = CurrentContext(lock);
    return context == nullptr ? -1 : context->device->number;
}

int InjectedError(const std::string& function, int code) {
    return FailWith(code, Format("%s: a fault that was asked for", function.c_str()));
}

}  // namespace

Runtime& TheRuntime() {
    static Runtime* const runtime = new Runtime();
    return *runtime;
}

bool IsInitialized() {
    const Lock lock(TheRuntime().mutex);
    return TheRuntime().initialized;
}

Context* CurrentContext(const Lock&) {
    Runtime& runtime = TheRuntime();
    if (runtime.created.count(t_context) != 0) {
        return t_context;
    }
    for (const auto& [device, context] : runtime.primary) {
        if (context.get() == t_context) {
            return t_context;
        }
    }
    return nullptr;
}

void SetCurrentContext(Context* context) { t_context = context; }

int RequireContext(const Lock& lock, const char* call, Context** context) {
    *context = CurrentContext(lock);
    if (*context == nullptr) {
        return FailWith(ACL_ERROR_RT_CONTEXT_NULL,
                        Format("%s: this thread has no context; call aclrtSetDevice or aclrtSetCurrentContext", call));
    }
    if ((*context)->device->lost_code != 0) {
        return FailWith((*context)->device->lost_code, Format("%s: the device is lost", call));
    }
    if ((*context)->poison_code != 0) {
        return FailWith((*context)->poison_code, Format("%s: the context is poisoned", call));
    }
    return ACL_SUCCESS;
}

int RequireDevice(const Lock&, int number, const char* call, Device** device) {
    Runtime& runtime = TheRuntime();
    if (!runtime.initialized) {
        return FailWith(ACL_ERROR_UNINITIALIZE, Format("%s before aclInit", call));
    }
    const int count = static_cast<int>(CurrentOptions().devices);
    if (number < 0 || number >= count) {
        return FailWith(ACL_ERROR_RT_INVALID_DEVICEID,
                        Format("%s: device %d; there are devices 0 to %d", call, number, count - 1));
    }
    *device = &runtime.devices[number];
    (*device)->number = number;
    return ACL_SUCCESS;
}

int RequireStream(const Lock& lock, void* handle, const char* call, Stream** stream) {
    Context* context = nullptr;
    if (const int code = RequireContext(lock, call, &context)) {
        return code;
    }
    if (handle == nullptr) {
        if (context->default_stream == nullptr) {
            context->default_stream = std::make_shared<Stream>(context);
        }
        *stream = context->default_stream.get();
        return ACL_SUCCESS;
    }
    *stream = static_cast<Stream*>(handle);
    if (TheRuntime().streams.count(*stream) == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s: %p is no stream", call, handle));
    }
    if ((*stream)->context() != context) {
        return FailWith(ACL_ERROR_RT_STREAM_CONTEXT,
                        Format("%s: the stream belongs to another context than the thread", call));
    }
    return ACL_SUCCESS;
}

void EndContext(Lock& lock, std::unique_ptr<Context> context) {
    Runtime& runtime = TheRuntime();
    std::vector<std::shared_ptr<Stream>> ending;
    if (context->default_stream != nullptr) {
        ending.push_back(std::move(context->default_stream));
    }
    for (auto found = runtime.streams.begin(); found != runtime.streams.end();) {
        if (found->second->context() == context.get()) {
            ending.push_back(std::move(found->second));
            found = runtime.streams.erase(found);
            Account(Resource::kStream, -1);
            AccountReclaimed(1);
        } else {
            ++found;
        }
    }
    for (const std::shared_ptr<Stream>& stream : ending) {
        stream->Drop(lock);
    }
    lock.unlock();
    ending.clear();  // joins their threads
    lock.lock();
}

Call::Call(std::string function, Kind kind) : fault_(NextFault(function, DeviceOfThread())) {
    switch (fault_.mode) {
        case FaultMode::kReturn:
            code_ = InjectedError(function, fault_.code);
            break;
        case FaultMode::kHang:
            if (kind == kPlain) {
                HangUntilCleared();
            }
            break;
        case FaultMode::kAsync:
        case FaultMode::kPoison:
        case FaultMode::kLose:
        case FaultMode::kDead:
            if (kind == kPlain) {
                const Lock lock(TheRuntime().mutex);
                SpreadFault(lock, fault_, CurrentContext(lock));
                code_ = InjectedError(function, fault_.code);
            }
            break;
        case FaultMode::kNone:
        case FaultMode::kZero:
        case FaultMode::kSkip:
        case FaultMode::kHalf:
        case FaultMode::kLast:
            break;
    }
}

void SpreadFault(const Lock&, const Fault& fault, Context* context) {
    if (context == nullptr) {
        return;
    }
    if (fault.mode == FaultMode::kPoison) {
        context->poison_code = fault.code;
    } else if (fault.mode == FaultMode::kLose || fault.mode == FaultMode::kDead) {
        context->device->lost_code = fault.code;
        context->device->dead = fault.mode == FaultMode::kDead;
    }
    TheRuntime().changed.notify_all();
}

}  // namespace sim
