#include "mse_loss_grad_plan.h"

#include <algorithm>
#include <limits>

namespace mse_loss_grad {
namespace {

// A stream is one tensor on its way between global memory and UB: predict, label, y and, unless it is one item, dout.

// Shorter copies do not reach the bandwidth of global memory (Ascend C guide, "move large blocks at once").
constexpr uint64_t kMinTileBytes = 16 * 1024;
// Least share of a stream that is worth another core: each core delays the start of all of them (Ascend C guide, "a
// fitting number of cores"). Not tuned on a device.
constexpr int64_t kMinBlockBytes = 8 * 1024;
// Longest run of DataCopyPad (DataCopyExtParams.blockLen <= 2097151 bytes), in whole lines.
constexpr uint64_t kMaxTileBytes = 2097151 / kMseLossGradLineBytes * kMseLossGradLineBytes;
constexpr uint64_t kMaxParts = 8;

bool Check(const Problem& problem, std::string* reason) {
    if (problem.item_bytes != 2 && problem.item_bytes != 4) {
        *reason = "items have " + std::to_string(problem.item_bytes) + " bytes; they must have 2 or 4";
        return false;
    }
    const int64_t max_elements = std::numeric_limits<int64_t>::max() / problem.item_bytes;
    if (problem.elements < 0 || problem.elements > max_elements) {
        *reason = "predict has " + std::to_string(problem.elements) + " elements; it must have 0 to " +
                  std::to_string(max_elements);
        return false;
    }
    if (problem.numel < 1 && problem.elements > 0) {
        *reason = "numel is " + std::to_string(problem.numel) + "; it must be at least 1";
        return false;
    }
    if (problem.cores == 0) {
        *reason = "the platform reports no vector core; at least one is needed";
        return false;
    }
    return true;
}

// Finds the size of a tile. 16-bit items pass through two float32 buffers, which hold one part of a tile. If buffers
// for a whole tile would push copies below 16 KiB, the tile is cut into as few parts as possible.
bool PlanTile(const Problem& problem, MseLossGradTilingData* tiling, std::string* reason) {
    const bool narrow = problem.item_bytes < sizeof(float);
    const uint64_t streams = problem.scalar_dout ? 3 : 4;
    const uint64_t buffers = kMseLossGradMostBuffers * streams;
    const uint64_t queue_bytes = buffers * problem.item_bytes;                  // a tile element
    const uint64_t scratch_bytes = narrow ? 2 * sizeof(float) : 0;              // a part element
    const uint64_t scalar_blocks = problem.scalar_dout ? (narrow ? 2 : 1) : 0;  // the item, and its float32
    const uint64_t fixed_bytes = scalar_blocks * kMseLossGradUbBlockBytes;
    const uint64_t line_elements = kMseLossGradLineBytes / problem.item_bytes;
    const uint64_t max_parts = narrow ? kMaxParts : 1;

    for (uint64_t parts = 1; parts <= max_parts && problem.ub_bytes > fixed_bytes; ++parts) {
        const uint64_t fitting = (problem.ub_bytes - fixed_bytes) / (parts * queue_bytes + scratch_bytes);
        const uint64_t part = std::min(fitting, kMaxTileBytes / problem.item_bytes / parts);
        const uint64_t part_elements = part / line_elements * line_elements;
        const uint64_t tile_elements = parts * part_elements;
        if (tile_elements * problem.item_bytes >= kMinTileBytes) {
            tiling->tile_elements = static_cast<uint32_t>(tile_elements);
            tiling->part_elements = static_cast<uint32_t>(part_elements);
            return true;
        }
    }
    *reason = "UB has " + std::to_string(problem.ub_bytes) + " bytes; too few for " + std::to_string(buffers) +
              " buffers of " + std::to_string(kMinTileBytes) + " bytes and the arithmetic between them";
    return false;
}

void PlanBlocks(const Problem& problem, MseLossGradTilingData* tiling) {
    const int64_t line_elements = kMseLossGradLineBytes / problem.item_bytes;
    const int64_t lines = problem.elements / line_elements + (problem.elements % line_elements != 0 ? 1 : 0);
    const int64_t paying = lines / (kMinBlockBytes / kMseLossGradLineBytes);
    const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(problem.cores, paying));
    tiling->blocks = static_cast<uint32_t>(blocks);
    tiling->lines_per_block = lines / blocks;
    tiling->extra_lines = lines % blocks;
    // Two buffers overlap the copies of one tile with the arithmetic of another (Ascend C guide, "double buffering").
    const int64_t most_lines = tiling->lines_per_block + (tiling->extra_lines > 0 ? 1 : 0);
    tiling->buffers = most_lines * line_elements > tiling->tile_elements ? kMseLossGradMostBuffers : 1;
}

float Coefficient(const Problem& problem) {
    if (problem.reduction != Reduction::kMean) {
        return 2.0f;
    }
    return static_cast<float>(2.0 / static_cast<double>(problem.numel));
}

}  // namespace

bool Plan(const Problem& problem, MseLossGradTilingData* tiling, std::string* reason) {
    *tiling = MseLossGradTilingData();
    if (!Check(problem, reason)) {
        return false;
    }
    if (problem.elements == 0) {
        return true;
    }
    if (!PlanTile(problem, tiling, reason)) {
        return false;
    }
    PlanBlocks(problem, tiling);
    tiling->elements = problem.elements;
    tiling->coefficient = Coefficient(problem);
    return true;
}

}  // namespace mse_loss_grad
