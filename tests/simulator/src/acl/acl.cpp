// The C functions of libascendcl.so but those on memory. Source of codes and rules: hicann/runtime
// include/external/acl.
#include "acl/acl.h"

#include <map>
#include <memory>
#include <mutex>

#include "core/report.h"
#include "core/settings.h"
#include "last_error.h"
#include "stream.h"

namespace sim {
namespace {

constexpr int32_t kDevices = 1;

struct Runtime {
    std::mutex mutex;
    bool initialized = false;
    std::map<int32_t, std::unique_ptr<Context>> primary;          // by device
    std::map<Context*, std::unique_ptr<Context>> created;         // by aclrtCreateContext
    std::map<Stream*, std::unique_ptr<Stream>> streams;           // by aclrtCreateStream
    std::map<Context*, std::unique_ptr<Stream>> default_streams;  // made when first used
};

Runtime& TheRuntime() {
    static Runtime runtime;
    return runtime;
}

thread_local Context* t_context = nullptr;

int CheckDevice(int32_t device, const char* call) {
    if (!IsInitialized()) {
        return FailWith(ACL_ERROR_UNINITIALIZE, Format("%s before aclInit", call));
    }
    if (device < 0 || device >= kDevices) {
        return FailWith(ACL_ERROR_RT_INVALID_DEVICEID,
                        Format("%s: device %d; there are devices 0 to %d", call, device, kDevices - 1));
    }
    return ACL_SUCCESS;
}

}  // namespace

Context* CurrentContext() { return t_context; }

int RequireContext(const char* call) {
    if (t_context == nullptr) {
        return FailWith(ACL_ERROR_RT_CONTEXT_NULL,
                        Format("%s: this thread has no context; call aclrtSetDevice or aclrtSetCurrentContext", call));
    }
    return ACL_SUCCESS;
}

bool IsInitialized() {
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    return TheRuntime().initialized;
}

Stream* FindStream(void* handle, int* code) {
    if ((*code = RequireContext("stream")) != ACL_SUCCESS) {
        return nullptr;
    }
    Runtime& runtime = TheRuntime();
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    if (handle == nullptr) {
        std::unique_ptr<Stream>& stream = runtime.default_streams[t_context];
        if (stream == nullptr) {
            stream = std::make_unique<Stream>(t_context);
        }
        return stream.get();
    }
    Stream* const stream = static_cast<Stream*>(handle);
    if (runtime.streams.count(stream) == 0) {
        *code = FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no stream", handle));
        return nullptr;
    }
    if (stream->context() != t_context) {
        *code = FailWith(ACL_ERROR_RT_STREAM_CONTEXT, "the stream belongs to another context than the thread");
        return nullptr;
    }
    return stream;
}

}  // namespace sim

using sim::FailWith;
using sim::Format;
using sim::TheRuntime;

aclError aclInit(const char*) {
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    if (TheRuntime().initialized) {
        return FailWith(ACL_ERROR_REPEAT_INITIALIZE, "aclInit was called before");
    }
    TheRuntime().initialized = true;
    return ACL_SUCCESS;
}

aclError aclFinalize() {
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    if (!TheRuntime().initialized) {
        return FailWith(ACL_ERROR_REPEAT_FINALIZE, "aclFinalize without aclInit");
    }
    TheRuntime().initialized = false;
    return ACL_SUCCESS;
}

const char* aclrtGetSocName() { return sim::CurrentSettings().chip->name; }

aclError aclrtGetDeviceCount(uint32_t* count) {
    if (count == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtGetDeviceCount to null");
    }
    *count = sim::kDevices;
    return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t deviceId) {
    if (const int code = sim::CheckDevice(deviceId, "aclrtSetDevice")) {
        return code;
    }
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    std::unique_ptr<sim::Context>& context = TheRuntime().primary[deviceId];
    if (context == nullptr) {
        context = std::make_unique<sim::Context>(deviceId);
    }
    sim::t_context = context.get();
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t deviceId) {
    if (const int code = sim::CheckDevice(deviceId, "aclrtResetDevice")) {
        return code;
    }
    std::unique_ptr<sim::Stream> ending;  // its thread is joined outside the lock
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    const auto primary = TheRuntime().primary.find(deviceId);
    if (primary == TheRuntime().primary.end()) {
        return ACL_SUCCESS;
    }
    const auto stream = TheRuntime().default_streams.find(primary->second.get());
    if (stream != TheRuntime().default_streams.end()) {
        ending = std::move(stream->second);
        TheRuntime().default_streams.erase(stream);
    }
    if (sim::t_context == primary->second.get()) {
        sim::t_context = nullptr;
    }
    // The context stays, for threads that still hold it; aclrtSetDevice gives the same one again.
    return ACL_SUCCESS;
}

aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId) {
    if (context == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtCreateContext to null");
    }
    if (const int code = sim::CheckDevice(deviceId, "aclrtCreateContext")) {
        return code;
    }
    auto created = std::make_unique<sim::Context>(deviceId);
    *context = created.get();
    sim::t_context = created.get();
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    TheRuntime().created[created.get()] = std::move(created);
    return ACL_SUCCESS;
}

aclError aclrtDestroyContext(aclrtContext context) {
    std::unique_ptr<sim::Stream> ending;  // its thread is joined outside the lock
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    sim::Context* const key = static_cast<sim::Context*>(context);
    const auto found = TheRuntime().created.find(key);
    if (found == TheRuntime().created.end()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no context of aclrtCreateContext", context));
    }
    const auto stream = TheRuntime().default_streams.find(key);
    if (stream != TheRuntime().default_streams.end()) {
        ending = std::move(stream->second);
        TheRuntime().default_streams.erase(stream);
    }
    if (sim::t_context == key) {
        sim::t_context = nullptr;
    }
    TheRuntime().created.erase(found);
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    sim::Context* const wanted = static_cast<sim::Context*>(context);
    bool known = TheRuntime().created.count(wanted) != 0;
    for (const auto& [device, primary] : TheRuntime().primary) {
        known = known || primary.get() == wanted;
    }
    if (!known) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no context", context));
    }
    sim::t_context = wanted;
    return ACL_SUCCESS;
}

aclError aclrtCreateStream(aclrtStream* stream) {
    if (stream == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtCreateStream to null");
    }
    if (const int code = sim::RequireContext("aclrtCreateStream")) {
        return code;
    }
    auto created = std::make_unique<sim::Stream>(sim::t_context);
    *stream = created.get();
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    TheRuntime().streams[created.get()] = std::move(created);
    return ACL_SUCCESS;
}

aclError aclrtDestroyStream(aclrtStream stream) {
    std::unique_ptr<sim::Stream> ending;  // its thread is joined outside the lock
    const std::lock_guard<std::mutex> lock(TheRuntime().mutex);
    const auto found = TheRuntime().streams.find(static_cast<sim::Stream*>(stream));
    if (found == TheRuntime().streams.end()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no stream", stream));
    }
    ending = std::move(found->second);
    TheRuntime().streams.erase(found);
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
    int code = ACL_SUCCESS;
    sim::Stream* const found = sim::FindStream(stream, &code);
    if (found == nullptr) {
        return code;
    }
    const sim::TaskResult result = found->Synchronize();
    return result.code == 0 ? ACL_SUCCESS : FailWith(result.code, result.message);
}
