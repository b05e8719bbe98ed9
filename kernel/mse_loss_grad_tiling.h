// What the host plans and the kernel obeys: one plain struct, copied byte for byte to the device.
#ifndef KERNEL_MSE_LOSS_GRAD_TILING_H_
#define KERNEL_MSE_LOSS_GRAD_TILING_H_

#include <cstdint>

// The kernel defines this as `__aicore__ inline` before it includes the header; the host needs no qualifier.
#ifndef MSE_LOSS_GRAD_TILING_FUNCTION
#define MSE_LOSS_GRAD_TILING_FUNCTION inline
#endif

// Which branch of the kernel runs. Macros, because the toolkit looks for `TILING_KEY_IS(<digits>)` in the preprocessed
// text to learn which branches to compile.
#define MSE_LOSS_GRAD_KEY_FULL_DOUT 1
#define MSE_LOSS_GRAD_KEY_SCALAR_DOUT 2

// A block owns whole lines of global memory of this size, so that its range starts where copies are fastest.
constexpr uint32_t kMseLossGradLineBytes = 512;
// The unit and the alignment of UB.
constexpr uint32_t kMseLossGradUbBlockBytes = 32;
// Buffers of a stream: one is copied while the other is computed. UB is shared out for as many.
constexpr uint32_t kMseLossGradMostBuffers = 2;

// Only fixed-size fields, neither pointers nor member functions: the toolkit copies the struct as bytes.
struct MseLossGradTilingData {
    int64_t elements;         // of predict, label and y
    int64_t lines_per_block;  // that every block owns
    int64_t extra_lines;      // the first `extra_lines` blocks own one line more; < blocks
    uint32_t blocks;          // 0 for no elements
    uint32_t tile_elements;   // of one full copy between global memory and UB
    uint32_t part_elements;   // of a tile that are float32 at one time; divides tile_elements
    uint32_t buffers;         // of a stream: 1 where no block has a second tile, else kMseLossGradMostBuffers
    float coefficient;        // 2, or 2 / numel for mean
};

// Returns the first element of `block`; block number `blocks` begins where the tensor ends. `line_elements` is
// kMseLossGradLineBytes / bytes of an item.
MSE_LOSS_GRAD_TILING_FUNCTION int64_t MseLossGradBlockBegin(const MseLossGradTilingData& tiling, int64_t block,
                                                            int64_t line_elements) {
    const int64_t extra = block < tiling.extra_lines ? block : tiling.extra_lines;
    const int64_t begin = (block * tiling.lines_per_block + extra) * line_elements;
    return begin < tiling.elements ? begin : tiling.elements;
}

#endif  // KERNEL_MSE_LOSS_GRAD_TILING_H_
