// Runs the CPU kernel for another process: cases on stdin, gradients on stdout, until stdin ends.
//
// At the start it writes the variants that run here, as MseLossGradCpuVariants returns them. A case is a Case and the
// bytes of predict, label and dout; its answer is an Answer and, if the status is OK, the bytes of y. Native byte
// order.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "mse_loss_grad_cpu.h"

namespace {

struct Case {
    int32_t variant;
    int32_t dtype;
    int32_t scalar_dout;
    int32_t misalignment;  // bytes, 0 to 63, from a multiple of 64 to where each tensor starts
    int64_t n;
    double c;
};

struct Answer {
    int32_t status;
    int32_t intact;  // whether every byte around y is as it was
};

constexpr size_t kAlignment = 64;
constexpr size_t kMarginBytes = 128;
constexpr unsigned char kCanary = 0xa5;

using Bytes = std::unique_ptr<unsigned char, decltype(&std::free)>;

// Returns an aligned allocation that ends directly after its bytes, so that a sanitizer detects each access past them.
Bytes Allocate(size_t size_bytes) {
    void* bytes = nullptr;
    if (posix_memalign(&bytes, kAlignment, size_bytes) != 0) {
        std::abort();
    }
    return {static_cast<unsigned char*>(bytes), &std::free};
}

void Read(void* to, size_t size_bytes) {
    if (std::fread(to, 1, size_bytes, stdin) != size_bytes) {
        std::abort();
    }
}

Bytes ReadTensor(size_t size_bytes, size_t misalignment) {
    Bytes tensor = Allocate(misalignment + size_bytes);
    Read(tensor.get() + misalignment, size_bytes);
    return tensor;
}

bool IsCanary(unsigned char byte) { return byte == kCanary; }

void Run(const Case& operands) {
    const size_t item_bytes = operands.dtype == MSE_LOSS_GRAD_CPU_FLOAT64   ? 8
                              : operands.dtype == MSE_LOSS_GRAD_CPU_FLOAT32 ? 4
                                                                            : 2;
    const size_t size_bytes = static_cast<size_t>(operands.n) * item_bytes;
    const size_t misalignment = static_cast<size_t>(operands.misalignment);
    const Bytes predict = ReadTensor(size_bytes, misalignment);
    const Bytes label = ReadTensor(size_bytes, misalignment);
    const Bytes dout = ReadTensor(operands.scalar_dout != 0 ? item_bytes : size_bytes, misalignment);

    const size_t before_bytes = kMarginBytes + misalignment;
    const Bytes whole = Allocate(before_bytes + size_bytes + kMarginBytes);
    unsigned char* const y = whole.get() + before_bytes;
    unsigned char* const end = y + size_bytes;
    std::fill(whole.get(), end + kMarginBytes, kCanary);

    const int32_t status =
        MseLossGradCpu(operands.variant, operands.dtype, operands.n, operands.c, operands.scalar_dout,
                       predict.get() + misalignment, label.get() + misalignment, dout.get() + misalignment, y);
    const bool intact = std::all_of(whole.get(), y, IsCanary) && std::all_of(end, end + kMarginBytes, IsCanary);
    const Answer answer{status, intact ? 1 : 0};
    std::fwrite(&answer, sizeof(answer), 1, stdout);
    if (status == MSE_LOSS_GRAD_CPU_OK) {
        std::fwrite(y, 1, size_bytes, stdout);
    }
    std::fflush(stdout);
}

}  // namespace

int main() {
    const uint32_t variants = MseLossGradCpuVariants();
    std::fwrite(&variants, sizeof(variants), 1, stdout);
    std::fflush(stdout);
    Case operands;
    while (std::fread(&operands, sizeof(operands), 1, stdin) == 1) {
        Run(operands);
    }
    return 0;
}
