// The kernel of MseLossGrad and MseLossGradPart: y = ((predict - label) * c) * dout.
#ifndef KERNEL_MSE_LOSS_GRAD_H_
#define KERNEL_MSE_LOSS_GRAD_H_

#include "kernel_operator.h"

#define MSE_LOSS_GRAD_TILING_FUNCTION __aicore__ inline
#include "mse_loss_grad_tiling.h"

// On chips with separate cube and vector cores, start the vector cores only. The toolkit's guide recommends saying so
// explicitly. Other chips do not know the statement.
#if (defined(__NPU_ARCH__) && __NPU_ARCH__ == 2201) || (defined(__CCE_AICORE__) && __CCE_AICORE__ == 220)
#define MSE_LOSS_GRAD_ON_VECTOR_CORES() KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY)
#else
#define MSE_LOSS_GRAD_ON_VECTOR_CORES()
#endif

// Computes the range of one block (one vector core), tile after tile: while a tile is computed, the next one is copied
// in and the previous one is copied out. T is float, half or bfloat16_t.
//
// Numerics: items become float32, (predict - label) * c * dout is computed in this order, and one rounding (to nearest,
// ties to even) makes them T again. So the bits of an item depend on neither the number of blocks nor the tile. A
// scalar dout is one item, multiplied after c as a full dout is. The kernel then moves three streams instead of four.
//
// Memory: a block reads and writes only items of its own range, of any length, and reads the scalar dout. A block
// without items touches nothing.
//
// Names of the hardware: UB is the unified buffer of a core, V its vector unit, S its scalar unit. MTE2 is the unit
// that copies from global memory into UB.
template <typename T, bool kScalarDout>
class MseLossGrad {
public:
    __aicore__ inline MseLossGrad() {}

    // Binds the tensors and allocates the buffers in UB. `pipe` must outlive this object.
    __aicore__ inline void Init(GM_ADDR predict, GM_ADDR label, GM_ADDR dout, GM_ADDR y,
                                const MseLossGradTilingData& tiling, AscendC::TPipe* pipe) {
        const int64_t block = AscendC::GetBlockIdx();
        if (block >= static_cast<int64_t>(tiling.blocks)) {
            return;
        }
        const int64_t begin = MseLossGradBlockBegin(tiling, block, kLineElements);
        elements_ = MseLossGradBlockBegin(tiling, block + 1, kLineElements) - begin;
        tile_elements_ = tiling.tile_elements;
        part_elements_ = tiling.part_elements;
        coefficient_ = tiling.coefficient;

        predict_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(predict) + begin, elements_);
        label_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(label) + begin, elements_);
        y_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y) + begin, elements_);

        const uint32_t tile_bytes = tiling.tile_elements * sizeof(T);
        const uint8_t buffers = static_cast<uint8_t>(tiling.buffers);
        pipe->InitBuffer(predict_queue_, buffers, tile_bytes);
        pipe->InitBuffer(label_queue_, buffers, tile_bytes);
        pipe->InitBuffer(y_queue_, buffers, tile_bytes);
        if constexpr (kScalarDout) {
            dout_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(dout), 1);
            pipe->InitBuffer(dout_queue_, 1, kMseLossGradUbBlockBytes);
        } else {
            dout_.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(dout) + begin, elements_);
            pipe->InitBuffer(dout_queue_, buffers, tile_bytes);
        }
        if constexpr (kNarrow) {
            pipe->InitBuffer(gradient_buffer_, tiling.part_elements * sizeof(float));
            pipe->InitBuffer(operand_buffer_, tiling.part_elements * sizeof(float));
        }
        if constexpr (kNarrow && kScalarDout) {
            pipe->InitBuffer(scalar_buffer_, kMseLossGradUbBlockBytes);
        }
    }

    __aicore__ inline void Process() {
        if (elements_ <= 0) {
            return;
        }
        if constexpr (kScalarDout) {
            CopyInScalarDout();
        }
        CopyIn(0);
        if constexpr (kScalarDout) {
            ReadScalarDout();
        }
        // The copies of the next tile are issued before this tile is computed: a tile of 16-bit items takes many calls.
        // Once these calls fill the vector unit's queue, S stalls until the copy that the calls wait for has arrived.
        for (int64_t begin = 0; begin < elements_; begin += tile_elements_) {
            if (begin + tile_elements_ < elements_) {
                CopyIn(begin + tile_elements_);
            }
            Compute(begin);
            CopyOut(begin);
        }
    }

private:
    using Floats = AscendC::LocalTensor<float>;
    using Items = AscendC::LocalTensor<T>;

    // Depth of a queue: how many EnQue follow each other without a DeQue. It is not the number of buffers. The input
    // queues hold this tile and the next. The compiler optimises a depth of 1 best (asc-devkit, the document of TQue).
    static constexpr int32_t kInputDepth = 2;
    static constexpr int32_t kDoutDepth = kScalarDout ? 1 : kInputDepth;
    static constexpr int32_t kOutputDepth = 1;
    static constexpr bool kNarrow = sizeof(T) < sizeof(float);
    static constexpr int64_t kLineElements = kMseLossGradLineBytes / sizeof(T);
    // Queues take their event ids from the pipe, but no queue orders V before S, so every id for that pair is free.
    static constexpr AscendC::TEventID kScalarReady = 0;

    // Starts the copies of the tile that begins at item `begin` of the block.
    //
    // Allocates all buffers before the first copy. AllocTensor makes MTE2 wait for a flag that V sets. Placed after a
    // copy, that wait would come so late that V could finish the previous tile and set the same flag again. A second
    // SetFlag before the WaitFlag is undefined (asc-devkit, SetFlag-WaitFlag(ISASI)).
    __aicore__ inline void CopyIn(int64_t begin) {
        const uint32_t count = ItemsInTile(begin);
        Items predict = predict_queue_.template AllocTensor<T>();
        Items label = label_queue_.template AllocTensor<T>();
        Items dout;
        if constexpr (!kScalarDout) {
            dout = dout_queue_.template AllocTensor<T>();
        }
        CopyIn(predict_queue_, predict, predict_[begin], count);
        CopyIn(label_queue_, label, label_[begin], count);
        if constexpr (!kScalarDout) {
            CopyIn(dout_queue_, dout, dout_[begin], count);
        }
    }

    template <typename Queue>
    __aicore__ inline void CopyIn(Queue& queue, const Items& items, const AscendC::GlobalTensor<T>& source,
                                  uint32_t count) {
        const AscendC::DataCopyPadExtParams<T> no_padding;
        AscendC::DataCopyPad(items, source, Copy(count), no_padding);
        queue.EnQue(items);
    }

    // Copies in the one item of dout before the first tile, because S waits for it. It is copied like all data: a
    // scalar load from global memory goes through the data cache, which is not coherent with data that copies wrote.
    __aicore__ inline void CopyInScalarDout() { CopyIn(dout_queue_, dout_queue_.template AllocTensor<T>(), dout_, 1); }

    __aicore__ inline void ReadScalarDout() {
        Items item = dout_queue_.template DeQue<T>();
        Floats wide;
        if constexpr (kNarrow) {
            wide = scalar_buffer_.template Get<float>();
            AscendC::Cast(wide, item, AscendC::RoundMode::CAST_NONE, 1);
        } else {
            wide = item;
        }
        // DeQue makes V wait for the copy; this makes S wait for V. SetFlag and WaitFlag without a TQueSync are not
        // documented for Atlas 200I/500 A2.
        AscendC::TQueSync<PIPE_V, PIPE_S> scalar_after_vector;
        scalar_after_vector.SetFlag(kScalarReady);
        scalar_after_vector.WaitFlag(kScalarReady);
        scalar_dout_ = wide.GetValue(0);
        dout_queue_.FreeTensor(item);
    }

    __aicore__ inline void Compute(int64_t begin) {
        const uint32_t count = ItemsInTile(begin);
        Items predict = predict_queue_.template DeQue<T>();
        Items label = label_queue_.template DeQue<T>();
        Items dout;
        if constexpr (!kScalarDout) {
            dout = dout_queue_.template DeQue<T>();
        }
        Items y = y_queue_.template AllocTensor<T>();
        if constexpr (kNarrow) {
            ComputeNarrow(y, predict, label, dout, count);
        } else {
            ComputeFloat(y, predict, label, dout, count);
        }
        y_queue_.EnQue(y);
        predict_queue_.FreeTensor(predict);
        label_queue_.FreeTensor(label);
        if constexpr (!kScalarDout) {
            dout_queue_.FreeTensor(dout);
        }
    }

    __aicore__ inline void ComputeFloat(const Floats& y, const Floats& predict, const Floats& label, const Floats& dout,
                                        uint32_t count) {
        AscendC::Sub(y, predict, label, count);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Muls(y, y, coefficient_, count);
        AscendC::PipeBarrier<PIPE_V>();
        if constexpr (kScalarDout) {
            AscendC::Muls(y, y, scalar_dout_, count);
        } else {
            AscendC::Mul(y, y, dout, count);
        }
    }

    // A tile passes through two float32 buffers part by part: two buffers of a whole tile would not fit into UB beside
    // copies of 16 KiB.
    __aicore__ inline void ComputeNarrow(const Items& y, const Items& predict, const Items& label, const Items& dout,
                                         uint32_t count) {
        Floats gradient = gradient_buffer_.template Get<float>();
        Floats operand = operand_buffer_.template Get<float>();
        for (uint32_t begin = 0; begin < count; begin += part_elements_) {
            const uint32_t part = count - begin < part_elements_ ? count - begin : part_elements_;
            AscendC::Cast(gradient, predict[begin], AscendC::RoundMode::CAST_NONE, part);
            AscendC::Cast(operand, label[begin], AscendC::RoundMode::CAST_NONE, part);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Sub(gradient, gradient, operand, part);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Muls(gradient, gradient, coefficient_, part);
            if constexpr (kScalarDout) {
                AscendC::PipeBarrier<PIPE_V>();
                AscendC::Muls(gradient, gradient, scalar_dout_, part);
            } else {
                AscendC::Cast(operand, dout[begin], AscendC::RoundMode::CAST_NONE, part);
                AscendC::PipeBarrier<PIPE_V>();
                AscendC::Mul(gradient, gradient, operand, part);
            }
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Cast(y[begin], gradient, AscendC::RoundMode::CAST_RINT, part);
            AscendC::PipeBarrier<PIPE_V>();
        }
    }

    __aicore__ inline void CopyOut(int64_t begin) {
        Items y = y_queue_.template DeQue<T>();
        AscendC::DataCopyPad(y_[begin], y, Copy(ItemsInTile(begin)));
        y_queue_.FreeTensor(y);
    }

    // Number of items in the tile that begins at `begin`. The block's last tile may be short.
    __aicore__ inline uint32_t ItemsInTile(int64_t begin) const {
        const int64_t left = elements_ - begin;
        return static_cast<uint32_t>(left < tile_elements_ ? left : tile_elements_);
    }

    // One run of `count` items; DataCopyPad counts bytes and takes any number of them.
    __aicore__ inline AscendC::DataCopyExtParams Copy(uint32_t count) const {
        return AscendC::DataCopyExtParams(1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0);
    }

    AscendC::TQue<AscendC::TPosition::VECIN, kInputDepth> predict_queue_;
    AscendC::TQue<AscendC::TPosition::VECIN, kInputDepth> label_queue_;
    AscendC::TQue<AscendC::TPosition::VECIN, kDoutDepth> dout_queue_;
    AscendC::TQue<AscendC::TPosition::VECOUT, kOutputDepth> y_queue_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> gradient_buffer_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> operand_buffer_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> scalar_buffer_;
    AscendC::GlobalTensor<T> predict_;
    AscendC::GlobalTensor<T> label_;
    AscendC::GlobalTensor<T> dout_;
    AscendC::GlobalTensor<T> y_;
    int64_t elements_ = 0;  // of this block
    int64_t tile_elements_ = 0;
    uint32_t part_elements_ = 0;
    float coefficient_ = 0.0f;
    float scalar_dout_ = 0.0f;
};

template <typename T, bool kScalarDout>
__aicore__ inline void RunMseLossGrad(GM_ADDR predict, GM_ADDR label, GM_ADDR dout, GM_ADDR y,
                                      const MseLossGradTilingData& tiling) {
    // A local variable: as a member of the class it would keep the compiler from folding the other members.
    AscendC::TPipe pipe;
    MseLossGrad<T, kScalarDout> kernel;
    kernel.Init(predict, label, dout, y, tiling, &pipe);
    kernel.Process();
}

#endif  // KERNEL_MSE_LOSS_GRAD_H_
