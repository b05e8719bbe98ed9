// The variant in plain C++, for every processor. Conversions are written without branches so that compilers vectorise
// them.

#include <cfloat>

#include "fused_loop.h"

static_assert(FLT_EVAL_METHOD == 0, "wider intermediates would round twice");

namespace mse_grad::cpu {
namespace {

template <class Type>
Type FromBytes(const unsigned char* from) {
    Type value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}

template <class To, class From>
To BitCast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// Not `condition ? yes : no`: compilers keep a branch around floating-point operations, and do not vectorise a loop
// with a branch.
inline uint32_t Select(bool condition, uint32_t yes, uint32_t no) {
    const uint32_t mask = 0u - static_cast<uint32_t>(condition);
    return (yes & mask) | (no & ~mask);
}

// float32 and float64: computed as they are.
template <class Element>
struct Plain {
    using Vector = Element;
    static constexpr int64_t kLanes = 1;
    static constexpr int64_t kItemBytes = sizeof(Element);
    static constexpr bool kStreams = false;

    static Vector Broadcast(double c) { return static_cast<Element>(c); }
    static Vector Load(const unsigned char* from) { return FromBytes<Element>(from); }
    static Vector LoadScalar(const unsigned char* from) { return FromBytes<Element>(from); }
    static void Store(unsigned char* to, Vector y) { std::memcpy(to, &y, sizeof(y)); }
};

// Common code of the two 16-bit formats, which differ in Widen and Narrow.
template <class Bits>
struct SixteenBit {
    using Vector = float;
    static constexpr int64_t kLanes = 1;
    static constexpr int64_t kItemBytes = 2;
    static constexpr bool kStreams = false;

    static Vector Broadcast(double c) { return static_cast<float>(c); }
    static Vector Load(const unsigned char* from) { return BitCast<float>(Bits::Widen(FromBytes<uint16_t>(from))); }
    static Vector LoadScalar(const unsigned char* from) { return Load(from); }
    static void Store(unsigned char* to, Vector y) {
        const uint16_t bits = static_cast<uint16_t>(Bits::Narrow(BitCast<uint32_t>(y)));
        std::memcpy(to, &bits, sizeof(bits));
    }
};

struct Float16 : SixteenBit<Float16> {
    // Bits of the infinity of float32, and the difference between its exponent bias, 127, and that of float16, 15.
    static constexpr uint32_t kInfinity32 = 0x7f800000;
    static constexpr uint32_t kRebias = (127 - 15) << 23;

    static uint32_t Widen(uint32_t half) {
        const uint32_t sign = (half & 0x8000) << 16;
        const uint32_t magnitude = (half & 0x7fff) << 13;
        const uint32_t normal = magnitude + kRebias;
        // Infinity and NaN have the greatest exponent in both formats.
        const uint32_t special = normal + kRebias;
        // A subnormal is its fraction times 2^-24. Put the fraction below the leading one of 2^-14, then subtract
        // 2^-14; both are exact.
        const uint32_t one = (127 - 14) << 23;
        const uint32_t subnormal = BitCast<uint32_t>(BitCast<float>(magnitude + one) - BitCast<float>(one));
        const uint32_t finite = Select(magnitude < 1u << 23, subnormal, normal);
        return sign | Select(magnitude < 31u << 23, finite, special);
    }

    static uint32_t Narrow(uint32_t single) {
        const uint32_t sign = (single >> 16) & 0x8000;
        const uint32_t magnitude = single & 0x7fffffff;
        // Add half of the last place that is kept, less one if that place is even: a tie then rounds up from odd only.
        // The carry may reach the exponent, up to infinity, which is correct.
        const uint32_t normal = (magnitude - kRebias + 0xfff + ((magnitude >> 13) & 1)) >> 13;
        // The last place of 2^-1 is 2^-24, so the processor rounds this sum to a multiple of the smallest subnormal.
        const uint32_t half = (127 - 1) << 23;
        const uint32_t subnormal = BitCast<uint32_t>(BitCast<float>(magnitude) + BitCast<float>(half)) - half;
        const uint32_t finite = Select(magnitude < (127 - 14) << 23, subnormal, normal);
        // Infinity from the midpoint of 65504 and 65536 on.
        const uint32_t bounded = Select(magnitude < 0x477ff000, finite, 0x7c00);
        return sign | Select(kInfinity32 < magnitude, 0x7e00, bounded);
    }
};

struct Bfloat16 : SixteenBit<Bfloat16> {
    static uint32_t Widen(uint32_t bits) { return bits << 16; }
    static uint32_t Narrow(uint32_t single) {
        const uint32_t rounded = (single + 0x7fff + ((single >> 16) & 1)) >> 16;
        return (single & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
    }
};

}  // namespace

const Variant kPortable = {Compute<Plain<float>>, Compute<Float16>, Compute<Bfloat16>, Compute<Plain<double>>};

}  // namespace mse_grad::cpu
