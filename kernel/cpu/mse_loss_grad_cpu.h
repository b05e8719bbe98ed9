/// C ABI of the fused CPU kernel: y = ((predict - label) * c) * dout in one pass.
///
/// Arithmetic: the operands become float32 (float64 stays float64), the three operations run in this order, and one
/// rounding to nearest even makes the result the dtype of the operands. Every variant gives the same bits for every
/// value that is not NaN; if one gives NaN, all do. Subnormals are kept. Source: the contract in docs/numerics.md.
///
/// Thread safety: any number of threads may call all functions at a time; they allocate and keep nothing. The
/// floating-point environment of the calling thread (rounding, flush to zero, exception flags) has no effect and does
/// not change.
#ifndef MSE_LOSS_GRAD_CPU_H_
#define MSE_LOSS_GRAD_CPU_H_

#include <stdint.h>

#define MSE_LOSS_GRAD_CPU_EXPORT __attribute__((visibility("default")))

/// Grows with every incompatible change of this header.
#define MSE_LOSS_GRAD_CPU_ABI_VERSION 1

/// Element type of predict, label, dout and y; the numbers are those of mse_grad.v1.DataType.
enum MseLossGradCpuDtype {
    MSE_LOSS_GRAD_CPU_FLOAT32 = 1,
    MSE_LOSS_GRAD_CPU_FLOAT16 = 2,
    MSE_LOSS_GRAD_CPU_BFLOAT16 = 3,
    MSE_LOSS_GRAD_CPU_FLOAT64 = 4,
};

/// Variants of the kernel, by their instructions.
enum MseLossGradCpuVariant {
    MSE_LOSS_GRAD_CPU_PORTABLE = 0,  // every processor of the architecture
    MSE_LOSS_GRAD_CPU_NEON = 1,      // aarch64
    MSE_LOSS_GRAD_CPU_AVX2 = 2,      // x86-64 with AVX2 and F16C
    MSE_LOSS_GRAD_CPU_AVX512 = 3,    // x86-64 with AVX-512 F
};

/// Status of MseLossGradCpu.
enum MseLossGradCpuStatus {
    MSE_LOSS_GRAD_CPU_OK = 0,
    MSE_LOSS_GRAD_CPU_UNKNOWN_DTYPE = 1,
    MSE_LOSS_GRAD_CPU_UNAVAILABLE_VARIANT = 2,  // unknown, not compiled in, or not for this processor
    MSE_LOSS_GRAD_CPU_NEGATIVE_COUNT = 3,
};

#ifdef __cplusplus
extern "C" {
#endif

/// Returns MSE_LOSS_GRAD_CPU_ABI_VERSION as it was when the library was compiled.
MSE_LOSS_GRAD_CPU_EXPORT int32_t MseLossGradCpuAbiVersion(void);

/// Returns the variants that this library, processor and operating system can run; bit v stands for variant v.
MSE_LOSS_GRAD_CPU_EXPORT uint32_t MseLossGradCpuVariants(void);

/// Returns the hexadecimal SHA-256 of the sources, zero-terminated; it lives as long as the library.
MSE_LOSS_GRAD_CPU_EXPORT const char* MseLossGradCpuHash(void);

/// Writes the gradient of n elements to y.
///
/// @param variant      MseLossGradCpuVariant, one of MseLossGradCpuVariants().
/// @param dtype        MseLossGradCpuDtype of all four tensors.
/// @param n            Elements of predict, label and y; with 0 nothing is read or written.
/// @param c            Coefficient: 2, or 2 / N for mean; rounded to float32 here unless dtype is float64.
/// @param scalar_dout  0: dout has n elements. Otherwise: dout has one element, which is used for all n.
/// @param predict      n elements, at any byte address.
/// @param label        n elements, at any byte address.
/// @param dout         n elements or one, at any byte address.
/// @param y            n elements, at any byte address, overlapping none of the others. Exactly these bytes are
/// written.
/// @return MseLossGradCpuStatus; if it is not OK, nothing was written.
MSE_LOSS_GRAD_CPU_EXPORT int32_t MseLossGradCpu(int32_t variant, int32_t dtype, int64_t n, double c,
                                                int32_t scalar_dout, const void* predict, const void* label,
                                                const void* dout, void* y);

#ifdef __cplusplus
}
#endif

#endif  // MSE_LOSS_GRAD_CPU_H_
