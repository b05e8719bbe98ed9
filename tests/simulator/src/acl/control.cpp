// The simulator's own C functions.
#include <cinttypes>
#include <cstring>

#include "accounts.h"
#include "core/cost.h"
#include "core/guarded_memory.h"
#include "core/launch.h"
#include "core/settings.h"
#include "core/vector.h"
#include "faults.h"
#include "memory.h"
#include "options.h"
#include "runtime.h"
#include "simulator/ascend_simulator.h"

#define EXPORT __attribute__((visibility("default")))

namespace sim {
namespace {

thread_local std::string t_text;
thread_local std::string t_report;

constexpr const char* kVectorNames[kVectorOps] = {"Add", "Sub", "Mul", "Muls", "Duplicate", "Cast"};

std::string Quoted(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            quoted += '\\';
        }
        quoted += c == '\n' ? ' ' : c;
    }
    return quoted + "\"";
}

std::string Json(const CopyCounters& copies) {
    return Format("{\"calls\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"smallest_bytes\": %" PRIu64
                  ", \"largest_bytes\": %" PRIu64 "}",
                  copies.calls, copies.bytes, copies.smallest_bytes, copies.largest_bytes);
}

std::string Json(const Counters& counters) {
    std::string vector;
    for (int op = 0; op < kVectorOps; ++op) {
        if (counters.vector_calls[op] > 0) {
            vector +=
                Format("%s\"%s\": {\"calls\": %" PRIu64 ", \"elements\": %" PRIu64 "}", vector.empty() ? "" : ", ",
                       kVectorNames[op], counters.vector_calls[op], counters.vector_elements[op]);
        }
    }
    return Format("{\"copy_in\": %s, \"copy_out\": %s, \"scalar_reads\": %" PRIu64 ", \"scalar_read_bytes\": %" PRIu64
                  ", \"vector\": {%s}, \"vector_repeats\": %" PRIu64 ", \"unaligned_copies\": %" PRIu64
                  ", \"tiles\": %" PRIu64 ", \"ub_bytes\": %" PRIu64 "}",
                  Json(counters.in).c_str(), Json(counters.out).c_str(), counters.scalar_reads,
                  counters.scalar_read_bytes, vector.c_str(), counters.vector_repeats, counters.unaligned_copies,
                  counters.tiles, counters.ub_bytes);
}

std::string Json(const Chip& chip, const CostEstimate& cost) {
    std::string constants;
    for (const CostConstant& constant : CostConstants(chip)) {
        constants += Format("%s{\"name\": %s, \"value\": %.10g, \"unit\": %s, \"source\": %s}",
                            constants.empty() ? "" : ", ", Quoted(constant.name).c_str(), constant.value,
                            Quoted(constant.unit).c_str(), Quoted(constant.source).c_str());
    }
    return Format(
        "{\"global_memory_us\": %.6g, \"copies_in_us\": %.6g, \"vector_us\": %.6g, \"copies_out_us\": %.6g, "
        "\"block_us\": %.6g, \"launch_us\": %.6g, \"total_us\": %.6g, \"bound\": %s, \"constants\": [%s]}",
        cost.global_memory_us, cost.pipe_us[static_cast<int>(Pipe::kMte2)],
        cost.pipe_us[static_cast<int>(Pipe::kVector)], cost.pipe_us[static_cast<int>(Pipe::kMte3)], cost.block_us,
        cost.launch_us, cost.total_us, Quoted(cost.bound).c_str(), constants.c_str());
}

std::string Json(const LaunchResult& launch) {
    Counters total;
    std::string blocks;
    for (const Counters& block : launch.blocks) {
        total.Add(block);
        blocks += (blocks.empty() ? "" : ", ") + Json(block);
    }
    return Format("{\"launches\": %" PRIu64
                  ", \"kernel\": %s, \"chip\": %s, \"ok\": %s, \"cause\": %s, "
                  "\"message\": %s, \"total\": %s, \"blocks\": [%s], \"cost\": %s}",
                  LaunchCount(), Quoted(launch.name).c_str(), Quoted(launch.chip->name).c_str(),
                  launch.ok ? "true" : "false", launch.ok ? "null" : Quoted(NameOf(launch.cause)).c_str(),
                  Quoted(launch.message).c_str(), Json(total).c_str(), blocks.c_str(),
                  Json(*launch.chip, EstimateCost(*launch.chip, launch.blocks)).c_str());
}

}  // namespace
}  // namespace sim

using sim::t_report;
using sim::t_text;

EXPORT int32_t AscendSimulatorSet(const char* name, const char* value) {
    std::string wrong;
    if (!sim::ChangeOption(name, value, &wrong)) {
        wrong = sim::ChangeSetting(name, value);
    }
    t_text = wrong;
    return wrong.empty() ? 0 : 1;
}

EXPORT int32_t AscendSimulatorAddFaults(const char* faults) {
    t_text = sim::AddFaults(faults);
    return t_text.empty() ? 0 : 1;
}

EXPORT void AscendSimulatorClearFaults() {
    sim::ClearFaults();
    const sim::Lock lock(sim::TheRuntime().mutex);
    for (auto& [number, device] : sim::TheRuntime().devices) {
        device.lost_code = device.dead ? 0 : device.lost_code;
        device.dead = false;
    }
}

EXPORT uint64_t AscendSimulatorCalls(const char* function) { return sim::CountCalls(function); }

EXPORT const char* AscendSimulatorAccounts() {
    t_report = sim::AccountsReport();
    return t_report.c_str();
}

EXPORT void AscendSimulatorRestartTime() { sim::RestartTime(); }

EXPORT int32_t AscendSimulatorLaunch(const char* name, void (*kernel)(), int64_t blocks,
                                     const struct AscendSimulatorTensor* tensors, uint32_t tensor_count,
                                     const void* tiling, uint64_t tiling_bytes, uint64_t tiling_key) {
    sim::LaunchRequest request;
    request.name = name;
    request.entry = kernel;
    request.blocks = blocks;
    for (uint32_t i = 0; i < tensor_count; ++i) {
        request.tensors.push_back({tensors[i].name, reinterpret_cast<uint64_t>(tensors[i].address), tensors[i].bytes});
    }
    const unsigned char* const bytes = static_cast<const unsigned char*>(tiling);
    request.tiling.assign(bytes, bytes + tiling_bytes);
    request.tiling_key = tiling_key;
    const sim::LaunchResult result = sim::Launch(request);
    if (result.ok) {
        return 0;
    }
    t_text = std::string(sim::NameOf(result.cause)) + ": " + result.message;
    return 1;
}

EXPORT const char* AscendSimulatorLastLaunch() {
    const sim::LaunchResult last = sim::LastLaunch();
    t_report = last.chip == nullptr ? "{\"launches\": 0}" : sim::Json(last);
    return t_report.c_str();
}

EXPORT int32_t AscendSimulatorVector(uint32_t op, uint32_t dst_element, uint32_t src_element, int32_t round_mode,
                                     void* dst, const void* src0, const void* src1, uint64_t scalar, int64_t count) {
    std::string supported;
    const sim::VectorLoop loop =
        sim::FindVectorLoop(static_cast<sim::VectorOp>(op), static_cast<sim::Element>(dst_element),
                            static_cast<sim::Element>(src_element), round_mode, &supported);
    if (loop == nullptr) {
        t_text = "there is no such instruction; there is " + supported;
        return 1;
    }
    loop({dst, src0, src1, scalar, count, round_mode});
    return 0;
}

EXPORT void* AscendSimulatorAllocate(uint64_t bytes, int32_t at_end) {
    return sim::AllocateGuarded(bytes, at_end != 0 ? 1 : sim::kPageAlignment);
}

EXPORT void AscendSimulatorFree(void* memory, uint64_t bytes, int32_t at_end) {
    sim::FreeGuarded(memory, bytes, at_end != 0 ? 1 : sim::kPageAlignment);
}

EXPORT uint64_t AscendSimulatorLiveAllocations() {
    return sim::LiveAllocations(sim::MemoryKind::kDevice) + sim::LiveAllocations(sim::MemoryKind::kPinnedHost);
}

EXPORT const char* AscendSimulatorText() { return t_text.c_str(); }
