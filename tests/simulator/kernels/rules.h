// Common code of the kernels that each break one rule, or only just keep it. All take one input of floats, one output,
// a workspace and tiling data.
#ifndef SIMULATOR_KERNELS_RULES_H_
#define SIMULATOR_KERNELS_RULES_H_

#include "kernel_operator.h"

#define KERNEL(name) extern "C" __attribute__((visibility("default"))) void name(GM_ADDR x, GM_ADDR y, GM_ADDR, GM_ADDR)

// For kernels that touch no global memory.
#define LOCAL_KERNEL(name) \
    extern "C" __attribute__((visibility("default"))) void name(GM_ADDR, GM_ADDR, GM_ADDR, GM_ADDR)

namespace rules {

using namespace AscendC;  // the kernels are all about its names

constexpr uint32_t kCount = 64;  // elements that most of them work on
constexpr uint32_t kBytes = kCount * sizeof(float);

inline GlobalTensor<float> Global(GM_ADDR address) {
    GlobalTensor<float> tensor;
    tensor.SetGlobalBuffer(reinterpret_cast<float*>(address));
    return tensor;
}

inline DataCopyExtParams Bytes(uint32_t bytes) { return DataCopyExtParams(1, bytes, 0, 0, 0); }

using InQueue = TQue<TPosition::VECIN, 1>;
using OutQueue = TQue<TPosition::VECOUT, 1>;
using Scratch = TBuf<TPosition::VECIN>;

// A pipe with one scratch buffer.
struct Bench {
    explicit Bench(uint32_t bytes = kBytes) { pipe.InitBuffer(scratch, bytes); }
    LocalTensor<float> Floats() { return scratch.Get<float>(); }
    TPipe pipe;
    Scratch scratch;
};

}  // namespace rules

#endif  // SIMULATOR_KERNELS_RULES_H_
