/// The loop that every variant compiles with its own instructions.
///
/// A Format is one dtype computed with one instruction set:
///   Vector              kLanes elements in the type of the arithmetic, with the operators - and *
///   kLanes, kItemBytes  elements per vector, bytes per element
///   kStreams            whether Stream and EndStreams exist
///   Broadcast(c)        c in every lane, rounded to the type of the arithmetic
///   Load, Store         kLanes elements from or to any byte address
///   LoadScalar          one element from any byte address in every lane
///   Stream              Store past the caches; the address is a multiple of what it stores
///   EndStreams          orders the streamed stores before what follows
#ifndef MSE_LOSS_GRAD_CPU_FUSED_LOOP_H_
#define MSE_LOSS_GRAD_CPU_FUSED_LOOP_H_

#include <cstdint>
#include <cstring>

#include "variant.h"

namespace mse_grad::cpu {
// Unnamed, although this is a header: the linker keeps one copy of a named function for all variants, perhaps one with
// instructions that the processor lacks.
namespace {

/// Bytes of y that one step writes: a whole cache line, because streamed stores must not write a part of one.
constexpr int64_t kStepBytes = 64;

/// Bytes of y from which on the kernel stores it past the caches: the four operands together then exceed most
/// last-level caches. Measured on Zen 5 with 32 MiB of L3, the kernel and one reader of y together: streaming takes 0.8
/// times as long from 16 MiB on, 1.2 times as long at 4 MiB.
constexpr int64_t kStreamFromBytes = int64_t{8} << 20;

/// Computes whole steps of the bytes [begin, end); returns the begin of the rest, which is less than a step.
template <class Format, bool kScalarDout, bool kStream>
int64_t Steps(const Call& call, int64_t begin, int64_t end) {
    using Vector = typename Format::Vector;
    constexpr int64_t kVectorBytes = Format::kLanes * Format::kItemBytes;
    const unsigned char* const __restrict predict = call.predict;
    const unsigned char* const __restrict label = call.label;
    const unsigned char* const __restrict dout = call.dout;
    unsigned char* const __restrict y = call.y;
    const Vector c = Format::Broadcast(call.c);
    const Vector scalar_dout = kScalarDout ? Format::LoadScalar(dout) : c;
    int64_t at = begin;
    for (; at <= end - kStepBytes; at += kStepBytes) {
        for (int64_t i = at; i < at + kStepBytes; i += kVectorBytes) {
            const Vector difference = Format::Load(predict + i) - Format::Load(label + i);
            const Vector gradient = difference * c * (kScalarDout ? scalar_dout : Format::Load(dout + i));
            if constexpr (kStream) {
                Format::Stream(y + i, gradient);
            } else {
                Format::Store(y + i, gradient);
            }
        }
    }
    return at;
}

/// Computes `size_bytes` bytes from `begin` on, less than a step, in buffers of a whole step.
template <class Format, bool kScalarDout>
void PartOfStep(const Call& call, int64_t begin, int64_t size_bytes) {
    if (size_bytes == 0) {
        return;
    }
    const size_t size = static_cast<size_t>(size_bytes);
    unsigned char predict[kStepBytes] = {};
    unsigned char label[kStepBytes] = {};
    unsigned char dout[kStepBytes] = {};
    unsigned char y[kStepBytes];
    std::memcpy(predict, call.predict + begin, size);
    std::memcpy(label, call.label + begin, size);
    if (kScalarDout) {
        std::memcpy(dout, call.dout, Format::kItemBytes);
    } else {
        std::memcpy(dout, call.dout + begin, size);
    }
    const Call step{call.n, call.c, call.scalar_dout, predict, label, dout, y};
    Steps<Format, kScalarDout, false>(step, 0, kStepBytes);
    std::memcpy(call.y + begin, y, size);
}

template <class Format, bool kScalarDout>
void Run(const Call& call) {
    const int64_t size_bytes = call.n * Format::kItemBytes;
    int64_t at = 0;
    if constexpr (Format::kStreams) {
        const int64_t head_bytes = -reinterpret_cast<intptr_t>(call.y) & (kStepBytes - 1);
        if (size_bytes >= kStreamFromBytes && head_bytes % Format::kItemBytes == 0) {
            PartOfStep<Format, kScalarDout>(call, 0, head_bytes);
            at = Steps<Format, kScalarDout, true>(call, head_bytes, size_bytes);
            Format::EndStreams();
        }
    }
    at = Steps<Format, kScalarDout, false>(call, at, size_bytes);
    PartOfStep<Format, kScalarDout>(call, at, size_bytes - at);
}

/// The kernel of one dtype.
template <class Format>
void Compute(const Call& call) {
    if (call.scalar_dout) {
        Run<Format, true>(call);
    } else {
        Run<Format, false>(call);
    }
}

}  // namespace
}  // namespace mse_grad::cpu

#endif  // MSE_LOSS_GRAD_CPU_FUSED_LOOP_H_
