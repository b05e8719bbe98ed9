// The C functions of ACL for its start and end, devices and contexts. Source of codes and rules: hicann/runtime
// include/external/acl and docs/zh/api_ref.
#include <cstdio>
#include <cstdlib>

#include "accounts.h"
#include "acl/acl.h"
#include "core/report.h"
#include "core/settings.h"
#include "last_error.h"
#include "memory.h"
#include "options.h"
#include "runtime.h"
#include "stream.h"

using sim::Call;
using sim::FailWith;
using sim::Format;
using sim::Lock;
using sim::TheRuntime;

namespace {

// Writes the accounts when ACL ends, for programs that observe the process from outside.
void ReportAccounts() {
    const char* const path = std::getenv("ASCEND_SIMULATOR_ACCOUNTS");
    if (path == nullptr) {
        return;
    }
    std::FILE* const file = std::fopen(path, "a");
    if (file == nullptr) {
        std::perror(path);
        return;
    }
    std::fprintf(file, "%s\n", sim::AccountsReport().c_str());
    std::fclose(file);
}

}  // namespace

aclError aclInit(const char*) {
    const Call call("aclInit");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    if (TheRuntime().initialized) {
        return FailWith(ACL_ERROR_REPEAT_INITIALIZE, "aclInit was called before");
    }
    TheRuntime().initialized = true;
    return ACL_SUCCESS;
}

aclError aclFinalize() {
    const Call call("aclFinalize");
    if (call.code() != 0) {
        return call.code();
    }
    {
        const Lock lock(TheRuntime().mutex);
        if (!TheRuntime().initialized) {
            return FailWith(ACL_ERROR_REPEAT_FINALIZE, "aclFinalize without aclInit");
        }
        TheRuntime().initialized = false;
    }
    ReportAccounts();
    return ACL_SUCCESS;
}

const char* aclrtGetSocName() { return sim::CurrentSettings().chip->name; }

aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* mode) {
    const Call call("aclrtGetDeviceSatMode");
    if (call.code() != 0) {
        return call.code();
    }
    if (mode == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtGetDeviceSatMode to null");
    }
    *mode = sim::CurrentSettings().saturates ? ACL_RT_OVERFLOW_MODE_SATURATION : ACL_RT_OVERFLOW_MODE_INFNAN;
    return ACL_SUCCESS;
}

aclError aclrtGetDeviceCount(uint32_t* count) {
    const Call call("aclrtGetDeviceCount");
    if (call.code() != 0) {
        return call.code();
    }
    if (count == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtGetDeviceCount to null");
    }
    *count = sim::CurrentOptions().devices;
    return *count == 0 ? FailWith(ACL_ERROR_RT_NO_DEVICE, "no device is visible") : ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t deviceId) {
    const Call call("aclrtSetDevice");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Device* device = nullptr;
    if (const int code = sim::RequireDevice(lock, deviceId, "aclrtSetDevice", &device)) {
        return code;
    }
    if (device->lost_code != 0) {
        return FailWith(device->lost_code, "aclrtSetDevice: the device is lost");
    }
    ++device->set_count;
    std::unique_ptr<sim::Context>& context = TheRuntime().primary[deviceId];
    if (context == nullptr) {
        context = std::make_unique<sim::Context>();
        context->device = device;
    }
    sim::SetCurrentContext(context.get());
    return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t deviceId) {
    const Call call("aclrtResetDevice");
    if (call.code() != 0) {
        return call.code();
    }
    Lock lock(TheRuntime().mutex);
    sim::Runtime& runtime = TheRuntime();
    sim::Device* device = nullptr;
    if (const int code = sim::RequireDevice(lock, deviceId, "aclrtResetDevice", &device)) {
        return code;
    }
    if (device->set_count == 0) {
        return ACL_SUCCESS;
    }
    if (--device->set_count > 0) {
        return ACL_SUCCESS;
    }
    // The driver frees everything that is left.
    uint64_t reclaimed = 0;
    while (true) {
        auto found = runtime.created.begin();
        while (found != runtime.created.end() && found->second->device != device) {
            ++found;
        }
        if (found == runtime.created.end()) {
            break;
        }
        std::unique_ptr<sim::Context> context = std::move(found->second);
        runtime.created.erase(found);
        sim::Account(sim::Resource::kContext, -1);
        ++reclaimed;
        sim::EndContext(lock, std::move(context));
    }
    std::unique_ptr<sim::Context> primary = std::move(runtime.primary[deviceId]);
    runtime.primary.erase(deviceId);
    sim::EndContext(lock, std::move(primary));
    for (auto found = runtime.events.begin(); found != runtime.events.end();) {
        if (found->second->device != deviceId) {
            ++found;
            continue;
        }
        found = runtime.events.erase(found);
        sim::Account(sim::Resource::kEvent, -1);
        ++reclaimed;
    }
    sim::AccountReclaimed(reclaimed + sim::ReclaimMemory(deviceId));
    device->lost_code = device->dead ? device->lost_code : 0;
    return ACL_SUCCESS;
}

aclError aclrtDeviceTaskAbort(int32_t deviceId, uint32_t) {
    const Call call("aclrtDeviceTaskAbort");
    if (call.code() != 0) {
        return call.code();
    }
    Lock lock(TheRuntime().mutex);
    sim::Device* device = nullptr;
    if (const int code = sim::RequireDevice(lock, deviceId, "aclrtDeviceTaskAbort", &device)) {
        return code;
    }
    for (const auto& [handle, stream] : TheRuntime().streams) {
        if (handle->context()->device == device) {
            stream->Abort(lock);
        }
    }
    return ACL_SUCCESS;
}

aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId) {
    const Call call("aclrtCreateContext");
    if (call.code() != 0) {
        return call.code();
    }
    if (context == nullptr) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtCreateContext to null");
    }
    const Lock lock(TheRuntime().mutex);
    sim::Device* device = nullptr;
    if (const int code = sim::RequireDevice(lock, deviceId, "aclrtCreateContext", &device)) {
        return code;
    }
    if (device->lost_code != 0) {
        return FailWith(device->lost_code, "aclrtCreateContext: the device is lost");
    }
    auto created = std::make_unique<sim::Context>();
    created->device = device;
    *context = created.get();
    sim::SetCurrentContext(created.get());
    TheRuntime().created[created.get()] = std::move(created);
    sim::Account(sim::Resource::kContext, 1);
    return ACL_SUCCESS;
}

aclError aclrtDestroyContext(aclrtContext context) {
    const Call call("aclrtDestroyContext");
    if (call.code() != 0) {
        return call.code();
    }
    Lock lock(TheRuntime().mutex);
    const auto found = TheRuntime().created.find(static_cast<sim::Context*>(context));
    if (found == TheRuntime().created.end()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no context of aclrtCreateContext", context));
    }
    if (const int code = found->second->device->lost_code) {
        return FailWith(code, "aclrtDestroyContext: the device is lost");
    }
    std::unique_ptr<sim::Context> ending = std::move(found->second);
    TheRuntime().created.erase(found);
    sim::Account(sim::Resource::kContext, -1);
    sim::EndContext(lock, std::move(ending));
    return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
    const Call call("aclrtSetCurrentContext");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Context* const wanted = static_cast<sim::Context*>(context);
    bool known = TheRuntime().created.count(wanted) != 0;
    for (const auto& [device, primary] : TheRuntime().primary) {
        known = known || primary.get() == wanted;
    }
    if (!known) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%p is no context", context));
    }
    sim::SetCurrentContext(wanted);
    return ACL_SUCCESS;
}
