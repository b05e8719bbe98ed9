// Conversions between float and the 16-bit float types, without branches, so that loops over them vectorise.
//
// Sources: IEEE 754-2019 for binary16; bfloat16_t is the upper half of a binary32. Modes are those of
// AscendC::RoundMode (asc-devkit, Cast.md). A NaN becomes a quiet NaN. A value that is too large becomes infinity if
// the mode rounds away from zero, because the platform files of the chips say support_inf_nan=1.
#ifndef SIMULATOR_ROUNDING_H_
#define SIMULATOR_ROUNDING_H_

#include <cstdint>
#include <cstring>

namespace sim {

enum class Rounding { kNearestEven = 1, kFloor, kCeil, kNearestAway, kTruncate, kOdd };

inline uint32_t BitsOfFloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline float FloatOfBits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

// Exact.
inline float FloatFromHalf(uint16_t bits) {
    const uint32_t magnitude = bits & 0x7fffu;
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    // The exponent of a half is 112 smaller; the product is exact, for subnormals too.
    const uint32_t finite = BitsOfFloat(FloatOfBits(magnitude << 13) * 0x1p112f);
    const uint32_t special = (magnitude << 13) | 0x7f800000u;
    return FloatOfBits(sign | (magnitude >= 0x7c00u ? special : finite));
}

// Exact.
inline float FloatFromBfloat16(uint16_t bits) { return FloatOfBits(static_cast<uint32_t>(bits) << 16); }

// To nearest, ties to even.
inline uint16_t HalfFromFloat(float value) {
    const uint32_t bits = BitsOfFloat(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // A subnormal half is a multiple of 2^-24, the last place of a float near 0.5, so the addition rounds.
    const uint32_t subnormal = BitsOfFloat(FloatOfBits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite));
}

// To nearest, ties to even.
inline uint16_t Bfloat16FromFloat(float value) {
    const uint32_t bits = BitsOfFloat(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

namespace rounding {

// Returns `magnitude` without its lowest `lost` bits, rounded by `mode`; `negative` is the sign of the value.
inline uint64_t Drop(uint64_t magnitude, int lost, bool negative, Rounding mode) {
    const uint64_t kept = magnitude >> lost;
    const uint64_t rest = magnitude & ((uint64_t{1} << lost) - 1);
    const uint64_t tie = uint64_t{1} << (lost - 1);
    switch (mode) {
        case Rounding::kNearestEven:
            return kept + (rest > tie || (rest == tie && (kept & 1)) ? 1 : 0);
        case Rounding::kNearestAway:
            return kept + (rest >= tie ? 1 : 0);
        case Rounding::kFloor:
            return kept + (rest != 0 && negative ? 1 : 0);
        case Rounding::kCeil:
            return kept + (rest != 0 && !negative ? 1 : 0);
        case Rounding::kOdd:
            return kept | (rest != 0 ? 1 : 0);
        case Rounding::kTruncate:
            break;
    }
    return kept;
}

}  // namespace rounding

// Any mode, but slower.
inline uint16_t HalfFromFloat(float value, Rounding mode) {
    const uint32_t bits = BitsOfFloat(value);
    const bool negative = (bits >> 31) != 0;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint16_t sign = negative ? 0x8000u : 0u;
    if (magnitude >= 0x7f800000u) {
        return sign | (magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u);
    }
    const int exponent = static_cast<int>(magnitude >> 23);  // biased by 127
    const uint64_t significand = exponent == 0 ? magnitude : (magnitude & 0x7fffffu) | 0x800000u;
    // Below 2^-14 (biased exponent 113) the last place stays at 2^-24. From 60 lost bits on, only a sticky bit matters.
    const int lost = exponent >= 113 ? 13 : 13 + 113 - (exponent == 0 ? 1 : exponent);
    const uint64_t kept = lost > 40 ? rounding::Drop(significand != 0 ? 1 : 0, 3, negative, mode)
                                    : rounding::Drop(significand, lost, negative, mode);
    const uint64_t result = exponent >= 113 ? kept + (static_cast<uint64_t>(exponent - 113) << 10) : kept;
    if (result >= 0x7c00u) {
        const bool away = mode == Rounding::kNearestEven || mode == Rounding::kNearestAway ||
                          (mode == Rounding::kFloor && negative) || (mode == Rounding::kCeil && !negative);
        return sign | (away ? 0x7c00u : 0x7bffu);
    }
    return static_cast<uint16_t>(sign | result);
}

inline uint16_t Bfloat16FromFloat(float value, Rounding mode) {
    const uint32_t bits = BitsOfFloat(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    if (magnitude >= 0x7f800000u) {
        return static_cast<uint16_t>((bits >> 16) | (magnitude > 0x7f800000u ? 0x40u : 0u));
    }
    return static_cast<uint16_t>(sign | rounding::Drop(magnitude, 16, (bits >> 31) != 0, mode));
}

}  // namespace sim

#endif  // SIMULATOR_ROUNDING_H_
