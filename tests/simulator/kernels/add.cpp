// A correct kernel, z = x + y over blocks and tiles, for the tests of schedules, counters and chips.
#include "kernel_operator.h"

namespace {

struct AddTiling {
    int64_t elements;
    int64_t block_elements;
    int64_t tile_elements;
};

template <typename T>
class Add {
public:
    void Init(GM_ADDR x, GM_ADDR y, GM_ADDR z, const AddTiling& tiling, AscendC::TPipe* pipe) {
        begin_ = AscendC::GetBlockIdx() * tiling.block_elements;
        end_ = begin_ + tiling.block_elements < tiling.elements ? begin_ + tiling.block_elements : tiling.elements;
        tile_ = tiling.tile_elements;
        x_.SetGlobalBuffer(reinterpret_cast<T*>(x));
        y_.SetGlobalBuffer(reinterpret_cast<T*>(y));
        z_.SetGlobalBuffer(reinterpret_cast<T*>(z));
        const uint32_t bytes = static_cast<uint32_t>(tile_ * sizeof(T));
        pipe->InitBuffer(x_queue_, 2, bytes);
        pipe->InitBuffer(y_queue_, 2, bytes);
        pipe->InitBuffer(z_queue_, 2, bytes);
    }

    void Process() {
        for (int64_t at = begin_; at < end_; at += tile_) {
            const uint32_t count = static_cast<uint32_t>(end_ - at < tile_ ? end_ - at : tile_);
            CopyIn(x_queue_, x_[at], count);
            CopyIn(y_queue_, y_[at], count);
            AscendC::LocalTensor<T> x = x_queue_.template DeQue<T>();
            AscendC::LocalTensor<T> y = y_queue_.template DeQue<T>();
            AscendC::LocalTensor<T> z = z_queue_.template AllocTensor<T>();
            AscendC::Add(z, x, y, static_cast<int32_t>(count));
            x_queue_.FreeTensor(x);
            y_queue_.FreeTensor(y);
            z_queue_.EnQue(z);
            z = z_queue_.template DeQue<T>();
            AscendC::DataCopyPad(z_[at], z, {1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0});
            z_queue_.FreeTensor(z);
        }
    }

private:
    template <typename Queue>
    void CopyIn(Queue& queue, const AscendC::GlobalTensor<T>& source, uint32_t count) {
        AscendC::LocalTensor<T> local = queue.template AllocTensor<T>();
        AscendC::DataCopyPad(local, source, {1, static_cast<uint32_t>(count * sizeof(T)), 0, 0, 0},
                             AscendC::DataCopyPadExtParams<T>());
        queue.EnQue(local);
    }

    AscendC::TQue<AscendC::TPosition::VECIN, 1> x_queue_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> y_queue_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> z_queue_;
    AscendC::GlobalTensor<T> x_;
    AscendC::GlobalTensor<T> y_;
    AscendC::GlobalTensor<T> z_;
    int64_t begin_ = 0;
    int64_t end_ = 0;
    int64_t tile_ = 0;
};

template <typename T>
void RunAdd(GM_ADDR x, GM_ADDR y, GM_ADDR z, GM_ADDR tiling) {
    REGISTER_TILING_DEFAULT(AddTiling);
    GET_TILING_DATA(tiling_data, tiling);
    AscendC::TPipe pipe;
    Add<T> kernel;
    kernel.Init(x, y, z, tiling_data, &pipe);
    kernel.Process();
}

}  // namespace

#define KERNEL extern "C" __attribute__((visibility("default"))) void

KERNEL add_float(GM_ADDR x, GM_ADDR y, GM_ADDR z, GM_ADDR, GM_ADDR tiling) { RunAdd<float>(x, y, z, tiling); }
KERNEL add_half(GM_ADDR x, GM_ADDR y, GM_ADDR z, GM_ADDR, GM_ADDR tiling) { RunAdd<half>(x, y, z, tiling); }
