// The variant for aarch64, whose base architecture has NEON and the conversions of float16.
//
// Stores are never streamed: GCC has no intrinsic for STNP, and no aarch64 machine was available to measure its gain.

#include <arm_neon.h>

#include "fused_loop.h"

namespace mse_grad::cpu {
namespace {

struct Float32 {
    using Vector = float32x4_t;
    static constexpr int64_t kLanes = 4;
    static constexpr int64_t kItemBytes = 4;
    static constexpr bool kStreams = false;

    static Vector Broadcast(double c) { return vdupq_n_f32(static_cast<float>(c)); }
    static Vector Load(const unsigned char* from) { return vreinterpretq_f32_u8(vld1q_u8(from)); }
    static Vector LoadScalar(const unsigned char* from) {
        float value;
        std::memcpy(&value, from, sizeof(value));
        return vdupq_n_f32(value);
    }
    static void Store(unsigned char* to, Vector y) { vst1q_u8(to, vreinterpretq_u8_f32(y)); }
};

// Common code of the two 16-bit formats, which differ in Widen and Narrow.
template <class Bits>
struct SixteenBit {
    using Vector = float32x4_t;
    static constexpr int64_t kLanes = 4;
    static constexpr int64_t kItemBytes = 2;
    static constexpr bool kStreams = false;

    static Vector Broadcast(double c) { return vdupq_n_f32(static_cast<float>(c)); }
    static Vector Load(const unsigned char* from) { return Bits::Widen(vreinterpret_u16_u8(vld1_u8(from))); }
    static Vector LoadScalar(const unsigned char* from) {
        uint16_t value;
        std::memcpy(&value, from, sizeof(value));
        return Bits::Widen(vdup_n_u16(value));
    }
    static void Store(unsigned char* to, Vector y) { vst1_u8(to, vreinterpret_u8_u16(Bits::Narrow(y))); }
};

struct Float16 : SixteenBit<Float16> {
    static Vector Widen(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }
    static uint16x4_t Narrow(Vector y) { return vreinterpret_u16_f16(vcvt_f16_f32(y)); }
};

struct Bfloat16 : SixteenBit<Bfloat16> {
    static Vector Widen(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }
    static uint16x4_t Narrow(Vector y) {
        const uint32x4_t bits = vreinterpretq_u32_f32(y);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
        const uint32x4_t quiet = vdupq_n_u32(0x7fc00000);
        return vshrn_n_u32(vbslq_u32(vceqq_f32(y, y), rounded, quiet), 16);
    }
};

struct Float64 {
    using Vector = float64x2_t;
    static constexpr int64_t kLanes = 2;
    static constexpr int64_t kItemBytes = 8;
    static constexpr bool kStreams = false;

    static Vector Broadcast(double c) { return vdupq_n_f64(c); }
    static Vector Load(const unsigned char* from) { return vreinterpretq_f64_u8(vld1q_u8(from)); }
    static Vector LoadScalar(const unsigned char* from) {
        double value;
        std::memcpy(&value, from, sizeof(value));
        return vdupq_n_f64(value);
    }
    static void Store(unsigned char* to, Vector y) { vst1q_u8(to, vreinterpretq_u8_f64(y)); }
};

}  // namespace

const Variant kNeon = {Compute<Float32>, Compute<Float16>, Compute<Bfloat16>, Compute<Float64>};

}  // namespace mse_grad::cpu
