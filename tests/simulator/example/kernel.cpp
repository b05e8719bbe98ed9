// A kernel to copy from: y = ((predict - label) * c) * dout in float32, on one core, tile after tile.
#include "kernel_operator.h"

namespace {

constexpr uint32_t kTileElements = 4096;

struct Tiling {
    int64_t elements;
    float coefficient;
};

class Gradient {
public:
    __aicore__ inline void Run(GM_ADDR predict, GM_ADDR label, GM_ADDR dout, GM_ADDR y, const Tiling& tiling) {
        tensors_[0].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(predict), tiling.elements);
        tensors_[1].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(label), tiling.elements);
        tensors_[2].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(dout), tiling.elements);
        tensors_[3].SetGlobalBuffer(reinterpret_cast<__gm__ float*>(y), tiling.elements);
        pipe_.InitBuffer(operands_, 1, 3 * kTileElements * sizeof(float));
        pipe_.InitBuffer(gradients_, 1, kTileElements * sizeof(float));
        for (int64_t begin = 0; begin < tiling.elements; begin += kTileElements) {
            const int64_t left = tiling.elements - begin;
            RunTile(begin, static_cast<uint32_t>(left < kTileElements ? left : kTileElements), tiling.coefficient);
        }
    }

private:
    __aicore__ inline void RunTile(int64_t begin, uint32_t count, float coefficient) {
        const AscendC::DataCopyExtParams copy(1, static_cast<uint32_t>(count * sizeof(float)), 0, 0, 0);
        const AscendC::DataCopyPadExtParams<float> no_padding;
        AscendC::LocalTensor<float> operands = operands_.AllocTensor<float>();
        for (uint32_t i = 0; i < 3; ++i) {
            AscendC::DataCopyPad(operands[i * kTileElements], tensors_[i][begin], copy, no_padding);
        }
        operands_.EnQue(operands);
        operands = operands_.DeQue<float>();
        AscendC::LocalTensor<float> gradient = gradients_.AllocTensor<float>();
        AscendC::Sub(gradient, operands, operands[kTileElements], count);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Muls(gradient, gradient, coefficient, count);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Mul(gradient, gradient, operands[2 * kTileElements], count);
        gradients_.EnQue(gradient);
        operands_.FreeTensor(operands);
        gradient = gradients_.DeQue<float>();
        AscendC::DataCopyPad(tensors_[3][begin], gradient, copy);
        gradients_.FreeTensor(gradient);
    }

    AscendC::TPipe pipe_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> operands_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> gradients_;
    AscendC::GlobalTensor<float> tensors_[4];  // predict, label, dout, y
};

}  // namespace

extern "C" __global__ __aicore__ void gradient(GM_ADDR predict, GM_ADDR label, GM_ADDR dout, GM_ADDR y,
                                               GM_ADDR workspace, GM_ADDR tiling) {
    (void)workspace;
    REGISTER_TILING_DEFAULT(Tiling);
    GET_TILING_DATA(tiling_data, tiling);
    Gradient kernel;
    kernel.Run(predict, label, dout, y, tiling_data);
}
