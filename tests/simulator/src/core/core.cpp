#include "core.h"

namespace sim {
namespace {

thread_local Core* t_core = nullptr;

}  // namespace

void Core::Begin(const LaunchContext& launch, int64_t block) {
    Abandon();
    launch_ = &launch;
    traffic_.block = block;
    random_ = launch.settings.seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(block);
    ub_.Resize(launch.settings.chip->ub_bytes);
}

void Core::Abandon() {
    for (PipeQueue& queue : pipes_) {
        queue.waiting.clear();
        queue.next = 0;
        queue.issued = 0;
        queue.clock = {};
        queue.reached = {};
        queue.time = 0;
        queue.names.assign(kNames, nullptr);
    }
    for (auto& of_source : flags_) {
        for (auto& of_destination : of_source) {
            for (Flag& flag : of_destination) {
                flag = Flag();
            }
        }
    }
    ub_used_ = 0;
    pipe_open_ = false;
    buffers_.clear();
    queues_.clear();
    counters_ = Counters();
    traffic_.reads.Clear();
    traffic_.writes.Clear();
    current_ = Current();
    issued_ = 0;
}

Core& CurrentCore() {
    if (t_core == nullptr) {
        throw KernelError(Cause::kUnsupported, "a call of the Ascend C API outside a launch");
    }
    return *t_core;
}

void SetCurrentCore(Core* core) { t_core = core; }

}  // namespace sim
