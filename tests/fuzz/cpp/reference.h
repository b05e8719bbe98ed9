// The gradient of one element in plain C++, by the contract in docs/numerics.md, without the kernel's own conversions.
#ifndef TESTS_FUZZ_CPP_REFERENCE_H_
#define TESTS_FUZZ_CPP_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fuzz {

template <class To, class From>
To BitCast(From from) {
    static_assert(sizeof(To) == sizeof(From), "only the type changes");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// float32 and float64: the arithmetic is in the element's own type.
template <class Element, class ElementBits>
struct Plain {
    using Bits = ElementBits;
    using Value = Element;
    static constexpr int kFractionBits = sizeof(Element) == 4 ? 23 : 52;

    static Value Widen(Bits bits) { return BitCast<Value>(bits); }
    static Bits Narrow(Value value) { return BitCast<Bits>(value); }
};

// 16 bits: one sign, then exponent, then kFraction bits of fraction, as IEEE 754 has them; the arithmetic is float32.
template <int kFraction>
struct SixteenBit {
    using Bits = uint16_t;
    using Value = float;
    static constexpr int kFractionBits = kFraction;
    static constexpr int kMaxExponent = (1 << (15 - kFraction)) - 1;
    static constexpr int kBias = kMaxExponent / 2;

    static Value Widen(Bits bits) {
        const int exponent = (bits & 0x7fff) >> kFraction;
        const int fraction = bits & ((1 << kFraction) - 1);
        double magnitude = 0;
        if (exponent == kMaxExponent) {
            magnitude = fraction == 0 ? HUGE_VAL : NAN;
        } else if (exponent == 0) {
            magnitude = std::ldexp(fraction, 1 - kBias - kFraction);
        } else {
            magnitude = std::ldexp((1 << kFraction) + fraction, exponent - kBias - kFraction);
        }
        return static_cast<float>((bits & 0x8000) != 0 ? -magnitude : magnitude);
    }

    // Rounds to the nearest, ties to even: scales the last place to 1 and lets the C library round to an integer.
    static Bits Narrow(Value value) {
        const Bits sign = std::signbit(value) ? 0x8000 : 0;
        constexpr Bits kInfinity = kMaxExponent << kFraction;
        if (std::isnan(value)) {
            return sign | kInfinity | 1;
        }
        if (value == 0 || std::isinf(value)) {
            return sign | (value == 0 ? Bits{0} : kInfinity);
        }
        const double magnitude = std::fabs(static_cast<double>(value));
        const int exponent = std::max(std::ilogb(magnitude), 1 - kBias);
        const double places = std::nearbyint(std::ldexp(magnitude, kFraction - exponent));
        // With the leading one in the exponent's place, a carry out of the fraction counts the exponent up.
        const int64_t bits = static_cast<int64_t>(places) + (int64_t{exponent + kBias - 1} << kFraction);
        return sign | static_cast<Bits>(std::min<int64_t>(bits, kInfinity));
    }
};

using Float32 = Plain<float, uint32_t>;
using Float64 = Plain<double, uint64_t>;
using Float16 = SixteenBit<10>;
using Bfloat16 = SixteenBit<7>;

// ((predict - label) * c) * dout, each step rounded to the type of the arithmetic, then once to the element's type.
template <class Format>
typename Format::Bits Gradient(typename Format::Bits predict, typename Format::Bits label, double c,
                               typename Format::Bits dout) {
    using Value = typename Format::Value;
    const Value difference = Format::Widen(predict) - Format::Widen(label);
    const Value scaled = difference * static_cast<Value>(c);
    return Format::Narrow(scaled * Format::Widen(dout));
}

// A NaN has no bits of its own in the contract: every NaN equals every other.
template <class Format>
bool SameBits(typename Format::Bits left, typename Format::Bits right) {
    const bool left_nan = std::isnan(Format::Widen(left)), right_nan = std::isnan(Format::Widen(right));
    return left_nan || right_nan ? left_nan && right_nan : left == right;
}

}  // namespace fuzz

#endif  // TESTS_FUZZ_CPP_REFERENCE_H_
