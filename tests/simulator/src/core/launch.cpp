#include "launch.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "guarded_memory.h"

namespace sim {
namespace {

std::mutex g_mutex;
LaunchResult g_last;  // of the most recently ended launch
uint64_t g_launches = 0;
std::vector<std::unique_ptr<Core>> g_idle_cores;  // kept, because mapping their memory again is expensive

std::unique_ptr<Core> TakeCore() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    if (g_idle_cores.empty()) {
        return std::make_unique<Core>();
    }
    std::unique_ptr<Core> core = std::move(g_idle_cores.back());
    g_idle_cores.pop_back();
    return core;
}

void GiveCore(std::unique_ptr<Core> core) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_idle_cores.push_back(std::move(core));
}

// Calls `entry` with all arguments, each of them an address.
void CallKernel(KernelEntry entry, const std::vector<unsigned char*>& a) {
    using B = unsigned char*;
    switch (a.size()) {
        case 2:
            return reinterpret_cast<void (*)(B, B)>(entry)(a[0], a[1]);
        case 3:
            return reinterpret_cast<void (*)(B, B, B)>(entry)(a[0], a[1], a[2]);
        case 4:
            return reinterpret_cast<void (*)(B, B, B, B)>(entry)(a[0], a[1], a[2], a[3]);
        case 5:
            return reinterpret_cast<void (*)(B, B, B, B, B)>(entry)(a[0], a[1], a[2], a[3], a[4]);
        case 6:
            return reinterpret_cast<void (*)(B, B, B, B, B, B)>(entry)(a[0], a[1], a[2], a[3], a[4], a[5]);
        case 7:
            return reinterpret_cast<void (*)(B, B, B, B, B, B, B)>(entry)(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        default:
            throw KernelError(Cause::kUnsupported, Format("a kernel of %zu arguments", a.size()));
    }
}

// State that the threads of one launch share.
class Run {
public:
    explicit Run(const LaunchRequest& request) : request_(request) {
        context_.settings = CurrentSettings();
        context_.tensors = request.tensors;
        context_.blocks = request.blocks;
        context_.tiling_key = request.tiling_key;
        context_.tiling = request.tiling;
        for (const GlobalRange& tensor : request.tensors) {
            arguments_.push_back(reinterpret_cast<unsigned char*>(tensor.address));
        }
        arguments_.push_back(reinterpret_cast<unsigned char*>(request.workspace));
        arguments_.push_back(context_.tiling.data());
        traffic_.resize(static_cast<size_t>(request.blocks));
        result_.name = request.name;
        result_.chip = context_.settings.chip;
        result_.blocks.resize(static_cast<size_t>(request.blocks));
    }

    LaunchResult Do() {
        const int64_t threads = std::min<int64_t>(context_.settings.threads, request_.blocks);
        std::vector<std::thread> others;
        for (int64_t i = 1; i < threads; ++i) {
            others.emplace_back([this] { Work(); });
        }
        Work();
        for (std::thread& other : others) {
            other.join();
        }
        if (result_.ok) {
            const std::string overlap = FindOverlap(traffic_, context_.tensors);
            if (!overlap.empty()) {
                Note(Cause::kOverlap, overlap);
            }
        }
        return std::move(result_);
    }

private:
    void Work() {
        std::unique_ptr<Core> core = TakeCore();
        SetCurrentCore(core.get());
        DescribeThread(&Run::DescribeCurrent);
        for (int64_t block = next_++; block < request_.blocks && !failed_; block = next_++) {
            RunBlock(*core, block);
        }
        DescribeThread(nullptr);
        SetCurrentCore(nullptr);
        GiveCore(std::move(core));
    }

    void RunBlock(Core& core, int64_t block) {
        try {
            core.Begin(context_, block);
            CallKernel(request_.entry, arguments_);
            core.Finish();
            result_.blocks[static_cast<size_t>(block)] = core.counters();
            traffic_[static_cast<size_t>(block)] = std::move(core.traffic());
        } catch (const KernelError& error) {
            Note(error.cause(), error.what());
        }
        core.Abandon();
    }

    void Note(Cause cause, const std::string& message) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (result_.ok) {
            result_.ok = false;
            result_.cause = cause;
            result_.message = request_.name + ": " + message;
        }
        failed_ = true;
    }

    static const char* DescribeCurrent() {
        static thread_local std::string text;
        text = CurrentCore().Where();
        return text.c_str();
    }

    const LaunchRequest& request_;
    LaunchContext context_;
    std::vector<unsigned char*> arguments_;
    std::vector<BlockTraffic> traffic_;
    std::atomic<int64_t> next_{0};
    std::atomic<bool> failed_{false};
    std::mutex mutex_;
    LaunchResult result_;
};

}  // namespace

LaunchResult Launch(const LaunchRequest& request) {
    LaunchResult result = Run(request).Do();
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_last = result;
    ++g_launches;
    return result;
}

LaunchResult LastLaunch() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return g_last;
}

uint64_t LaunchCount() {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return g_launches;
}

}  // namespace sim
