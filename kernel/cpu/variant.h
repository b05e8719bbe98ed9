/// Interface between the variants of the kernel and the dispatch in mse_loss_grad_cpu.cpp.
///
/// Every variant is a translation unit with its own instruction set flags. Variants share only this header with code
/// that runs on any processor, so it must define nothing that emits code.
#ifndef MSE_LOSS_GRAD_CPU_VARIANT_H_
#define MSE_LOSS_GRAD_CPU_VARIANT_H_

#include <cstdint>

namespace mse_grad::cpu {

/// The operands of one call; see MseLossGradCpu.
struct Call {
    int64_t n;
    double c;
    bool scalar_dout;
    const unsigned char* predict;
    const unsigned char* label;
    const unsigned char* dout;
    unsigned char* y;
};

/// Computes one call in one dtype.
using Kernel = void (*)(const Call& call);

/// A variant: one kernel for each dtype.
struct Variant {
    Kernel float32;
    Kernel float16;
    Kernel bfloat16;
    Kernel float64;
};

extern const Variant kPortable;
extern const Variant kNeon;
extern const Variant kAvx2;
extern const Variant kAvx512;

}  // namespace mse_grad::cpu

#endif  // MSE_LOSS_GRAD_CPU_VARIANT_H_
