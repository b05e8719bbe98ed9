// How the work of one launch is shared out: blocks, ranges, tiles and the coefficient. Pure arithmetic, no toolkit
// header, so that it is tested on any machine.
#ifndef OP_HOST_MSE_LOSS_GRAD_PLAN_H_
#define OP_HOST_MSE_LOSS_GRAD_PLAN_H_

#include <cstdint>
#include <string>

#include "../kernel/mse_loss_grad_tiling.h"

namespace mse_loss_grad {

enum class Reduction { kNone, kMean, kSum };

struct Problem {
    int64_t elements;  // of predict, >= 0
    int64_t numel;     // N of the coefficient; another than elements for a part of a tensor, or for several in one
    Reduction reduction;
    uint32_t item_bytes;  // 4 for float32, 2 for float16 and bfloat16
    bool scalar_dout;     // dout is one item
    uint32_t cores;       // vector cores of the chip, >= 1
    uint64_t ub_bytes;    // of UB, as the platform reports it: on some chips less than the hardware has
};

// Fills `tiling` and returns true, or says in `reason` what was wrong and what is allowed, and returns false.
//
// Whole 512-byte lines are dealt out evenly, the first blocks one line more; small tensors use few blocks. A full tile
// is a copy of at least 16 KB and all buffers together fit UB, two of them a stream where a block has a second tile.
// No elements: no block, and nothing is divided.
// Thread safety: pure.
bool Plan(const Problem& problem, MseLossGradTilingData* tiling, std::string* reason);

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_PLAN_H_
