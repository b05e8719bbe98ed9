// Fuzz target: the operator's plan of a launch. Ranges of blocks cover every element once, in whole lines; buffers fit
// UB; and a problem is refused only for a reason that the header names.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cinttypes>
#include <limits>

#include "../../../op_host/mse_loss_grad_plan.h"
#include "require.h"

namespace {

using fuzz::Require;
using mse_loss_grad::Problem;
using mse_loss_grad::Reduction;

// A product of two counts of 64 bits; exact, so that it also judges sums that no longer fit 64.
using Wide = __int128;

constexpr uint64_t kKib = 1024;
constexpr uint64_t kMinTileBytes = 16 * kKib;
constexpr int64_t kMinBlockLines = 8 * kKib / kMseLossGradLineBytes;
constexpr uint64_t kMaxRunBytes = 2097151;     // DataCopyExtParams.blockLen
constexpr uint64_t kLeastUbBytes = 196352;     // of the supported chips
constexpr int64_t kMostBlocksOneByOne = 4096;  // of more blocks only some are looked at

int64_t ConsumeCount(FuzzedDataProvider* input) {
    const int bits = input->ConsumeIntegralInRange(0, 63);
    const int64_t most = std::numeric_limits<int64_t>::max() >> (63 - bits);
    return input->ConsumeIntegralInRange<int64_t>(0, 7) == 0 ? input->ConsumeIntegral<int64_t>()
                                                             : input->ConsumeIntegralInRange<int64_t>(0, most);
}

Problem ConsumeProblem(FuzzedDataProvider* input) {
    Problem problem = Problem();
    problem.elements = ConsumeCount(input);
    problem.numel = input->ConsumeBool() ? problem.elements : ConsumeCount(input);
    problem.reduction = static_cast<Reduction>(input->ConsumeIntegralInRange(0, 2));
    problem.item_bytes = input->ConsumeIntegralInRange(0, 15) == 0 ? input->ConsumeIntegral<uint32_t>()
                                                                   : 2 * input->ConsumeIntegralInRange(1, 2);
    problem.scalar_dout = input->ConsumeBool();
    problem.cores = input->ConsumeIntegralInRange(0, 3) == 0 ? input->ConsumeIntegral<uint32_t>()
                                                             : input->ConsumeIntegral<uint8_t>();
    problem.ub_bytes = input->ConsumeIntegralInRange(0, 3) == 0
                           ? input->ConsumeIntegral<uint64_t>()
                           : input->ConsumeIntegralInRange<uint64_t>(64 * kKib, 1024 * kKib);
    return problem;
}

bool IsAllowed(const Problem& problem) {
    if (problem.item_bytes != 2 && problem.item_bytes != 4) {
        return false;
    }
    const Wide size_bytes = Wide{problem.elements} * problem.item_bytes;
    return problem.elements >= 0 && size_bytes <= std::numeric_limits<int64_t>::max() &&
           (problem.elements == 0 || problem.numel >= 1) && problem.cores > 0;
}

// Returns the sum of the kernel's InitBuffer calls if a block has a second tile.
Wide UbUseBytes(const Problem& problem, const MseLossGradTilingData& tiling) {
    const Wide tile_bytes = Wide{tiling.tile_elements} * problem.item_bytes;
    const Wide dout_bytes = problem.scalar_dout ? Wide{kMseLossGradUbBlockBytes} : 2 * tile_bytes;
    const Wide used_bytes = 3 * 2 * tile_bytes + dout_bytes;
    if (problem.item_bytes == 4) {
        return used_bytes;
    }
    return used_bytes + 2 * 4 * Wide{tiling.part_elements} + (problem.scalar_dout ? kMseLossGradUbBlockBytes : 0);
}

void CheckTile(const Problem& problem, const MseLossGradTilingData& tiling) {
    const uint64_t tile_bytes = uint64_t{tiling.tile_elements} * problem.item_bytes;
    Require(tile_bytes >= kMinTileBytes && tile_bytes <= kMaxRunBytes, "a tile has %" PRIu64 " bytes", tile_bytes);
    Require(tile_bytes % kMseLossGradLineBytes == 0, "a tile has %" PRIu64 " bytes, no whole lines", tile_bytes);
    Require(tiling.part_elements > 0 && tiling.tile_elements % tiling.part_elements == 0,
            "parts do not make up a tile");
    Require(uint64_t{tiling.part_elements} * problem.item_bytes % kMseLossGradLineBytes == 0,
            "a part is no whole lines");
    Require(UbUseBytes(problem, tiling) <= problem.ub_bytes, "the buffers do not fit %" PRIu64 " bytes of UB",
            problem.ub_bytes);
}

// Requires that `block` begins at a line, owns elements, and is followed by the next without gap; returns its elements.
int64_t CheckBlock(const Problem& problem, const MseLossGradTilingData& tiling, int64_t block) {
    const int64_t line_elements = kMseLossGradLineBytes / problem.item_bytes;
    const int64_t begin = MseLossGradBlockBegin(tiling, block, line_elements);
    const int64_t end = MseLossGradBlockBegin(tiling, block + 1, line_elements);
    const Wide lines = Wide{block} * tiling.lines_per_block + std::min(block, tiling.extra_lines);
    Require(begin == lines * line_elements, "block %" PRId64 " begins at %" PRId64, block, begin);
    Require(begin < end && end <= problem.elements, "block %" PRId64 " is [%" PRId64 ", %" PRId64 ")", block, begin,
            end);
    Require(tiling.blocks == 1 || (end - begin + line_elements - 1) / line_elements >= kMinBlockLines,
            "block %" PRId64 " has %" PRId64 " elements, too few for a core", block, end - begin);
    const bool two = end - begin > tiling.tile_elements;
    Require(!two || tiling.buffers == 2, "block %" PRId64 " has a second tile, and streams have one buffer", block);
    return end - begin;
}

void CheckBlocks(const Problem& problem, const MseLossGradTilingData& tiling, FuzzedDataProvider* input) {
    const int64_t line_elements = kMseLossGradLineBytes / problem.item_bytes;
    const int64_t lines = problem.elements / line_elements + (problem.elements % line_elements != 0 ? 1 : 0);
    const int64_t blocks = tiling.blocks;
    Require(blocks >= 1 && blocks <= problem.cores, "%" PRId64 " blocks for %u cores", blocks, problem.cores);
    Require(blocks == problem.cores || lines / (blocks + 1) < kMinBlockLines, "one more core would pay");
    Require(tiling.extra_lines >= 0 && tiling.extra_lines < blocks, "%" PRId64 " extra lines", tiling.extra_lines);
    Require(Wide{blocks} * tiling.lines_per_block + tiling.extra_lines == lines, "the blocks own not all lines");
    Require(MseLossGradBlockBegin(tiling, 0, line_elements) == 0, "the first block begins behind the first element");
    Require(MseLossGradBlockBegin(tiling, blocks, line_elements) == problem.elements, "the last block ends too soon");
    Require(tiling.buffers == 1 || tiling.buffers == 2, "%u buffers", tiling.buffers);
    if (blocks <= kMostBlocksOneByOne) {
        Wide covered = 0;
        int64_t most = 0;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t elements = CheckBlock(problem, tiling, block);
            most = std::max(most, elements);
            covered += elements;
        }
        Require(covered == problem.elements, "the blocks do not cover every element once");
        // The last line may be a part of one, and the plan counts whole lines.
        Require(tiling.buffers == 1 || most + line_elements > tiling.tile_elements, "one buffer would do");
        return;
    }
    for (const int64_t block : {int64_t{0}, std::max<int64_t>(tiling.extra_lines, 1) - 1, tiling.extra_lines,
                                blocks - 1, input->ConsumeIntegralInRange<int64_t>(0, blocks - 1)}) {
        CheckBlock(problem, tiling, block);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FuzzedDataProvider input(data, size);
    const Problem problem = ConsumeProblem(&input);
    MseLossGradTilingData tiling;
    std::string reason;
    const bool planned = Plan(problem, &tiling, &reason);
    Require(planned == reason.empty(), "planned %d, and the reason is '%s'", planned, reason.c_str());
    if (!planned) {
        const bool small = problem.elements > 0 && problem.ub_bytes < kLeastUbBytes;
        Require(!IsAllowed(problem) || small, "refused: %s", reason.c_str());
        return 0;
    }
    Require(IsAllowed(problem), "taken: %" PRId64 " elements of %u bytes, numel %" PRId64 ", %u cores",
            problem.elements, problem.item_bytes, problem.numel, problem.cores);
    Require(tiling.elements == problem.elements, "%" PRId64 " elements became %" PRId64, problem.elements,
            tiling.elements);
    if (problem.elements == 0) {
        Require(tiling.blocks == 0, "%u blocks for no elements", tiling.blocks);
        return 0;
    }
    const double c = problem.reduction == Reduction::kMean ? 2.0 / static_cast<double>(problem.numel) : 2.0;
    Require(tiling.coefficient == static_cast<float>(c), "the coefficient is %g, not %g", tiling.coefficient, c);
    CheckTile(problem, tiling);
    CheckBlocks(problem, tiling, &input);
    return 0;
}
