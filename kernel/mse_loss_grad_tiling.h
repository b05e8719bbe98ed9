// The plan of a launch: one plain struct, which the host fills, the toolkit copies to the device and the kernel reads.
#ifndef KERNEL_MSE_LOSS_GRAD_TILING_H_
#define KERNEL_MSE_LOSS_GRAD_TILING_H_

#include <cstdint>

// The kernel defines this as `__aicore__ inline` before it includes the header; the host needs no qualifier.
#ifndef MSE_LOSS_GRAD_TILING_FUNCTION
#define MSE_LOSS_GRAD_TILING_FUNCTION inline
#endif

// Tiling keys, which choose the branch of the kernel. Macros, because the toolkit searches the preprocessed text for
// `TILING_KEY_IS(<digits>)` to learn which branches to compile.
#define MSE_LOSS_GRAD_KEY_FULL_DOUT 1
#define MSE_LOSS_GRAD_KEY_SCALAR_DOUT 2

// Size of a line of global memory. A block owns whole lines, so that its range starts where copies are fastest.
constexpr uint32_t kMseLossGradLineBytes = 512;
// The unit and the alignment of UB.
constexpr uint32_t kMseLossGradUbBlockBytes = 32;
// Most buffers of a stream: one is copied while the other is computed. The plan sizes tiles for this many.
constexpr uint32_t kMseLossGradMostBuffers = 2;

// Only fixed-size fields, neither pointers nor member functions: the toolkit copies the struct as bytes.
struct MseLossGradTilingData {
    int64_t elements;         // elements of predict, label and y
    int64_t lines_per_block;  // whole lines that every block owns
    int64_t extra_lines;      // number of the first blocks that own one line more; < blocks
    uint32_t blocks;          // vector cores in use; 0 for no elements
    uint32_t tile_elements;   // elements of one full copy between global memory and UB
    uint32_t part_elements;   // elements of a tile that become float32 at a time; divides tile_elements
    uint32_t buffers;         // buffers per stream: 1 if no block has a second tile, else kMseLossGradMostBuffers
    float coefficient;        // c: 2, or 2 / numel for mean
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
