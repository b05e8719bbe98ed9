// The operators' kernels, one for each dtype, which a real package holds as binaries.
#include "simulator/operator.h"

// The Makefile compiles kernel/*.cpp once for each dtype and renames the entry after it.
#define DECLARE_KERNEL(entry)                                                                       \
    extern "C" void entry##_float(uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*);      \
    extern "C" void entry##_half(uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*);       \
    extern "C" void entry##_bfloat16_t(uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*, uint8_t*); \
    static const int g_##entry##_registered =                                                       \
        sim::RegisterKernels(OPERATOR_OF_##entry, #entry,                                           \
                             {{ge::DT_FLOAT, reinterpret_cast<void (*)()>(entry##_float)},          \
                              {ge::DT_FLOAT16, reinterpret_cast<void (*)()>(entry##_half)},         \
                              {ge::DT_BF16, reinterpret_cast<void (*)()>(entry##_bfloat16_t)}})

#define OPERATOR_OF_mse_loss_grad "MseLossGrad"
#define OPERATOR_OF_mse_loss_grad_part "MseLossGradPart"

DECLARE_KERNEL(mse_loss_grad);
DECLARE_KERNEL(mse_loss_grad_part);
