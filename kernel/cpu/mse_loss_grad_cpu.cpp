// Dispatch of a call: checks the arguments, chooses the variant, sets the floating-point environment.

#include "mse_loss_grad_cpu.h"

#include "variant.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

namespace {

using mse_grad::cpu::Call;
using mse_grad::cpu::Kernel;
using mse_grad::cpu::Variant;

// Sets the IEEE defaults for its lifetime and then restores the caller's environment. A thread may flush subnormals to
// zero because of torch.set_flush_denormal, or of a library in the process that was compiled with -ffast-math.
class DefaultEnvironment {
public:
#if defined(__x86_64__)
    // MXCSR alone, which takes a few cycles: the functions of <cfenv> also save the x87 unit, which takes 0.2 us.
    DefaultEnvironment() : callers_(_mm_getcsr()) { _mm_setcsr(kNearestAllMasked); }
    ~DefaultEnvironment() { _mm_setcsr(callers_); }
#else
    DefaultEnvironment() {
        std::fegetenv(&callers_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultEnvironment() { std::fesetenv(&callers_); }
#endif
    DefaultEnvironment(const DefaultEnvironment&) = delete;
    DefaultEnvironment& operator=(const DefaultEnvironment&) = delete;

private:
#if defined(__x86_64__)
    static constexpr uint32_t kNearestAllMasked = 0x1f80;
    const uint32_t callers_;
#else
    std::fenv_t callers_;
#endif
};

constexpr uint32_t Bit(int32_t variant) { return 1u << variant; }

#if defined(__x86_64__)
const Variant* const kVariants[] = {&mse_grad::cpu::kPortable, nullptr, &mse_grad::cpu::kAvx2, &mse_grad::cpu::kAvx512};

uint32_t DetectVariants() {
    __builtin_cpu_init();
    // __builtin_cpu_supports knows "f16c" only from GCC 11 on. F16C uses the registers of AVX2, for which that function
    // also checks the operating system.
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    return Bit(MSE_LOSS_GRAD_CPU_PORTABLE) |
           (f16c && __builtin_cpu_supports("avx2") ? Bit(MSE_LOSS_GRAD_CPU_AVX2) : 0) |
           (__builtin_cpu_supports("avx512f") ? Bit(MSE_LOSS_GRAD_CPU_AVX512) : 0);
}
#elif defined(__aarch64__)
const Variant* const kVariants[] = {&mse_grad::cpu::kPortable, &mse_grad::cpu::kNeon};

uint32_t DetectVariants() { return Bit(MSE_LOSS_GRAD_CPU_PORTABLE) | Bit(MSE_LOSS_GRAD_CPU_NEON); }
#else
const Variant* const kVariants[] = {&mse_grad::cpu::kPortable};

uint32_t DetectVariants() { return Bit(MSE_LOSS_GRAD_CPU_PORTABLE); }
#endif

// Detected once, when the library is loaded: a hypervisor intercepts CPUID, which then takes microseconds.
const uint32_t kRunnable = DetectVariants();

// Returns the kernel, or null for an unknown dtype.
Kernel FindKernel(const Variant& variant, int32_t dtype) {
    switch (dtype) {
        case MSE_LOSS_GRAD_CPU_FLOAT32:
            return variant.float32;
        case MSE_LOSS_GRAD_CPU_FLOAT16:
            return variant.float16;
        case MSE_LOSS_GRAD_CPU_BFLOAT16:
            return variant.bfloat16;
        case MSE_LOSS_GRAD_CPU_FLOAT64:
            return variant.float64;
        default:
            return nullptr;
    }
}

}  // namespace

extern "C" {

int32_t MseLossGradCpuAbiVersion() { return MSE_LOSS_GRAD_CPU_ABI_VERSION; }

uint32_t MseLossGradCpuVariants() { return kRunnable; }

const char* MseLossGradCpuHash() { return MSE_LOSS_GRAD_CPU_HASH; }

int32_t MseLossGradCpu(int32_t variant, int32_t dtype, int64_t n, double c, int32_t scalar_dout, const void* predict,
                       const void* label, const void* dout, void* y) {
    if (variant < 0 || variant > MSE_LOSS_GRAD_CPU_AVX512 || (kRunnable & Bit(variant)) == 0) {
        return MSE_LOSS_GRAD_CPU_UNAVAILABLE_VARIANT;
    }
    const Kernel kernel = FindKernel(*kVariants[variant], dtype);
    if (kernel == nullptr) {
        return MSE_LOSS_GRAD_CPU_UNKNOWN_DTYPE;
    }
    if (n < 0) {
        return MSE_LOSS_GRAD_CPU_NEGATIVE_COUNT;
    }
    if (n == 0) {
        return MSE_LOSS_GRAD_CPU_OK;  // the variants would read a scalar dout all the same
    }
    const DefaultEnvironment environment;
    kernel({n, c, scalar_dout != 0, static_cast<const unsigned char*>(predict),
            static_cast<const unsigned char*>(label), static_cast<const unsigned char*>(dout),
            static_cast<unsigned char*>(y)});
    return MSE_LOSS_GRAD_CPU_OK;
}

}  // extern "C"
