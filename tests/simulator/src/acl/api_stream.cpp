// The C functions of ACL for streams. Source of codes and rules: hicann/runtime include/external/acl,
// docs/zh/api_ref/06_stream_management.md.
#include "accounts.h"
#include "acl/acl.h"
#include "core/report.h"
#include "last_error.h"
#include "runtime.h"
#include "stream.h"

using sim::Call;
using sim::FailWith;
using sim::Format;
using sim::Lock;
using sim::TheRuntime;

namespace {

int CreateStream(const char* call, aclrtStream* stream) {
    if (stream == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s to null", call));
    }
    const Lock lock(TheRuntime().mutex);
    sim::Context* context = nullptr;
    if (const int code = sim::RequireContext(lock, call, &context)) {
        return code;
    }
    auto created = std::make_shared<sim::Stream>(context);
    *stream = created.get();
    TheRuntime().streams[created.get()] = std::move(created);
    sim::Account(sim::Resource::kStream, 1);
    return ACL_SUCCESS;
}

int DestroyStream(const char* call, aclrtStream stream, bool by_force) {
    std::shared_ptr<sim::Stream> ending;  // its thread is joined outside the lock
    const Lock lock(TheRuntime().mutex);
    const auto found = TheRuntime().streams.find(static_cast<sim::Stream*>(stream));
    if (found == TheRuntime().streams.end()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s: %p is no stream", call, stream));
    }
    if (const int code = found->first->context()->device->lost_code) {
        return FailWith(code, Format("%s: the device is lost", call));
    }
    ending = std::move(found->second);
    TheRuntime().streams.erase(found);
    sim::Account(sim::Resource::kStream, -1);
    if (by_force) {
        ending->Drop(lock);
    }
    return ACL_SUCCESS;
}

int SynchronizeStream(const char* call, aclrtStream stream, int32_t timeout_ms) {
    if (timeout_ms < -1 || timeout_ms == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                        Format("%s for %d ms; it must be -1 or more than 0", call, timeout_ms));
    }
    Lock lock(TheRuntime().mutex);
    sim::Stream* found = nullptr;
    if (const int code = sim::RequireStream(lock, stream, call, &found)) {
        return code;
    }
    const sim::TaskResult result = found->Synchronize(lock, timeout_ms);
    return result.code == 0 ? ACL_SUCCESS : FailWith(result.code, result.message);
}

}  // namespace

aclError aclrtCreateStream(aclrtStream* stream) {
    const Call call("aclrtCreateStream");
    return call.code() != 0 ? call.code() : CreateStream("aclrtCreateStream", stream);
}

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
    const Call call("aclrtCreateStreamWithConfig");
    return call.code() != 0 ? call.code() : CreateStream("aclrtCreateStreamWithConfig", stream);
}

aclError aclrtDestroyStream(aclrtStream stream) {
    const Call call("aclrtDestroyStream");
    return call.code() != 0 ? call.code() : DestroyStream("aclrtDestroyStream", stream, false);
}

aclError aclrtDestroyStreamForce(aclrtStream stream) {
    const Call call("aclrtDestroyStreamForce");
    return call.code() != 0 ? call.code() : DestroyStream("aclrtDestroyStreamForce", stream, true);
}

aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t mode) {
    const Call call("aclrtSetStreamFailureMode");
    if (call.code() != 0) {
        return call.code();
    }
    if (mode > ACL_STOP_ON_FAILURE) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtSetStreamFailureMode takes 0 or 1");
    }
    const Lock lock(TheRuntime().mutex);
    sim::Stream* found = nullptr;
    if (const int code = sim::RequireStream(lock, stream, "aclrtSetStreamFailureMode", &found)) {
        return code;
    }
    found->context()->stops_on_failure = mode == ACL_STOP_ON_FAILURE;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream stream) {
    const Call call("aclrtSynchronizeStream");
    return call.code() != 0 ? call.code() : SynchronizeStream("aclrtSynchronizeStream", stream, -1);
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t timeout) {
    const Call call("aclrtSynchronizeStreamWithTimeout");
    return call.code() != 0 ? call.code() : SynchronizeStream("aclrtSynchronizeStreamWithTimeout", stream, timeout);
}

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
    const Call call("aclrtStreamQuery");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Stream* found = nullptr;
    if (const int code = sim::RequireStream(lock, stream, "aclrtStreamQuery", &found)) {
        return code;
    }
    *status = found->IsIdle(lock) ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
    return ACL_SUCCESS;
}

aclError aclrtStreamAbort(aclrtStream stream) {
    const Call call("aclrtStreamAbort");
    if (call.code() != 0) {
        return call.code();
    }
    Lock lock(TheRuntime().mutex);
    sim::Stream* found = nullptr;
    if (const int code = sim::RequireStream(lock, stream, "aclrtStreamAbort", &found)) {
        return code;
    }
    found->Abort(lock);
    return ACL_SUCCESS;
}
