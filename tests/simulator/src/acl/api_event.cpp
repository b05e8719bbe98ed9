// The C functions of ACL for events. Source of codes and rules: hicann/runtime include/external/acl,
// docs/zh/api_ref/07_event_management.md.
#include <algorithm>
#include <chrono>

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

int RequireEvent(const Lock& lock, aclrtEvent handle, const char* call, sim::Event** event) {
    sim::Context* context = nullptr;
    if (const int code = sim::RequireContext(lock, call, &context)) {
        return code;
    }
    *event = static_cast<sim::Event*>(handle);
    if (TheRuntime().events.count(*event) == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("%s: %p is no event", call, handle));
    }
    return ACL_SUCCESS;
}

// The host has seen the event, so tasks that it queues from now on are later in virtual time.
void See(const Lock&, const sim::Record& record) { TheRuntime().host_us = std::max(TheRuntime().host_us, record.us); }

}  // namespace

aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t flag) {
    const Call call("aclrtCreateEventExWithFlag");
    if (call.code() != 0) {
        return call.code();
    }
    constexpr uint32_t kKnown = ACL_EVENT_SYNC | ACL_EVENT_CAPTURE_STREAM_PROGRESS | ACL_EVENT_TIME_LINE;
    if (event == nullptr || flag == 0 || (flag & ~kKnown) != 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("aclrtCreateEventExWithFlag with the flags %#x", flag));
    }
    const Lock lock(TheRuntime().mutex);
    sim::Context* context = nullptr;
    if (const int code = sim::RequireContext(lock, "aclrtCreateEventExWithFlag", &context)) {
        return code;
    }
    auto created = std::make_unique<sim::Event>();
    created->device = context->device->number;
    created->flags = flag;
    *event = created.get();
    TheRuntime().events[created.get()] = std::move(created);
    sim::Account(sim::Resource::kEvent, 1);
    return ACL_SUCCESS;
}

aclError aclrtDestroyEvent(aclrtEvent event) {
    const Call call("aclrtDestroyEvent");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    const auto found = TheRuntime().events.find(static_cast<sim::Event*>(event));
    if (found == TheRuntime().events.end()) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, Format("aclrtDestroyEvent: %p is no event", event));
    }
    if (const int code = TheRuntime().devices[found->second->device].lost_code) {
        return FailWith(code, "aclrtDestroyEvent: the device is lost");
    }
    TheRuntime().events.erase(found);
    sim::Account(sim::Resource::kEvent, -1);
    return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
    const Call call("aclrtRecordEvent", Call::kQueues);
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Event* recorded = nullptr;
    sim::Stream* found = nullptr;
    if (const int code = RequireEvent(lock, event, "aclrtRecordEvent", &recorded)) {
        return code;
    }
    if (const int code = sim::RequireStream(lock, stream, "aclrtRecordEvent", &found)) {
        return code;
    }
    recorded->last = std::make_shared<sim::Record>();
    sim::Task task;
    task.records = recorded->last;
    task.fault = call.fault();
    found->Push(lock, std::move(task));
    return ACL_SUCCESS;
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
    const Call call("aclrtStreamWaitEvent", Call::kQueues);
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Event* awaited = nullptr;
    sim::Stream* found = nullptr;
    if (const int code = RequireEvent(lock, event, "aclrtStreamWaitEvent", &awaited)) {
        return code;
    }
    if (const int code = sim::RequireStream(lock, stream, "aclrtStreamWaitEvent", &found)) {
        return code;
    }
    if ((awaited->flags & ACL_EVENT_SYNC) == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID, "aclrtStreamWaitEvent needs an event with ACL_EVENT_SYNC");
    }
    sim::Task task;
    task.waits_for = awaited->last;
    task.fault = call.fault();
    found->Push(lock, std::move(task));
    return ACL_SUCCESS;
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
    const Call call("aclrtQueryEventStatus");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Event* found = nullptr;
    if (const int code = RequireEvent(lock, event, "aclrtQueryEventStatus", &found)) {
        return code;
    }
    const bool done = found->last == nullptr || found->last->done;
    if (done && found->last != nullptr) {
        See(lock, *found->last);
    }
    *status = done ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
    return ACL_SUCCESS;
}

aclError aclrtSynchronizeEventWithTimeout(aclrtEvent event, int32_t timeout) {
    const Call call("aclrtSynchronizeEventWithTimeout");
    if (call.code() != 0) {
        return call.code();
    }
    if (timeout < -1 || timeout == 0) {
        return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                        Format("aclrtSynchronizeEventWithTimeout for %d ms; it must be -1 or more than 0", timeout));
    }
    Lock lock(TheRuntime().mutex);
    sim::Event* found = nullptr;
    if (const int code = RequireEvent(lock, event, "aclrtSynchronizeEventWithTimeout", &found)) {
        return code;
    }
    const std::shared_ptr<sim::Record> record = found->last;
    if (record == nullptr) {
        return ACL_SUCCESS;
    }
    // An event behind a failure never happens, and waiting for it does not report the failure: Event::Synchronize of
    // the runtime checks the device every 5 s only.
    const auto is_over = [&] { return record->done; };
    if (timeout < 0) {
        TheRuntime().changed.wait(lock, is_over);
    } else if (!TheRuntime().changed.wait_for(lock, std::chrono::milliseconds(timeout), is_over)) {
        return FailWith(ACL_ERROR_RT_EVENT_SYNC_TIMEOUT, Format("the event did not happen within %d ms", timeout));
    }
    See(lock, *record);
    return ACL_SUCCESS;
}

aclError aclrtEventElapsedTime(float* ms, aclrtEvent startEvent, aclrtEvent endEvent) {
    const Call call("aclrtEventElapsedTime");
    if (call.code() != 0) {
        return call.code();
    }
    const Lock lock(TheRuntime().mutex);
    sim::Event* start = nullptr;
    sim::Event* end = nullptr;
    if (const int code = RequireEvent(lock, startEvent, "aclrtEventElapsedTime", &start)) {
        return code;
    }
    if (const int code = RequireEvent(lock, endEvent, "aclrtEventElapsedTime", &end)) {
        return code;
    }
    for (const sim::Event* event : {start, end}) {
        if ((event->flags & ACL_EVENT_TIME_LINE) == 0 || event->last == nullptr || !event->last->done) {
            return FailWith(ACL_ERROR_RT_PARAM_INVALID,
                            "aclrtEventElapsedTime needs events with ACL_EVENT_TIME_LINE that have happened");
        }
    }
    *ms = static_cast<float>((end->last->us - start->last->us) / 1000);
    return ACL_SUCCESS;
}
