// The plan of one launch: blocks, their ranges, tiles and the coefficient. Pure arithmetic without toolkit headers, so
// that any machine can test it.
#ifndef OP_HOST_MSE_LOSS_GRAD_PLAN_H_
#define OP_HOST_MSE_LOSS_GRAD_PLAN_H_

#include <cstdint>
#include <string>

#include "../kernel/mse_loss_grad_tiling.h"

namespace mse_loss_grad {

enum class Reduction { kNone, kMean, kSum };

struct Problem {
    int64_t elements;  // of predict, >= 0
    int64_t numel;     // N of the coefficient; differs from elements for a part of a tensor, or for several in one
    Reduction reduction;
    uint32_t item_bytes;  // 4 for float32, 2 for float16 and bfloat16
    bool scalar_dout;     // dout is one item
    uint32_t cores;       // vector cores of the chip, >= 1
    uint64_t ub_bytes;    // of UB, as the platform reports it; less than the hardware has on some chips
};

// Fills `tiling` and returns true; or returns false, and `reason` says what was wrong and what is allowed.
//
// Blocks get whole lines of 512 bytes, evenly: the first blocks may get one more. Small tensors use few blocks. A full
// tile is a copy of at least 16 KiB, and all buffers together fit UB: two for each stream if a block has a second tile,
// else one. Without elements there is no block, and nothing is divided.
// Thread safety: pure.
bool Plan(const Problem& problem, MseLossGradTilingData* tiling, std::string* reason);

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_PLAN_H_
