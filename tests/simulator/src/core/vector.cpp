#include "vector.h"

#include <cstring>

#include "report.h"
#include "rounding.h"

// One loop for any processor and one for AVX2, chosen when the library is loaded. Sanitizers start after that choice.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SIMULATOR_SANITIZED)
#define SIM_LOOP __attribute__((target_clones("avx2", "default")))
#else
#define SIM_LOOP
#endif

namespace sim {
namespace {

// In the numbering of AscendC::RoundMode.
enum RoundModeNumber { kNone, kRint, kFloor, kCeil, kRound, kTrunc, kOdd };

template <typename T>
T ScalarOf(const VectorOperands& operands) {
    T value;
    std::memcpy(&value, &operands.scalar, sizeof(T));
    return value;
}

struct AddOf {
    template <typename T>
    static T Apply(T a, T b) {
        return a + b;
    }
};
struct SubOf {
    template <typename T>
    static T Apply(T a, T b) {
        return a - b;
    }
};
struct MulOf {
    template <typename T>
    static T Apply(T a, T b) {
        return a * b;
    }
};

// A float keeps everything of the exact result of two halves that decides the rounding, so rounding twice equals
// rounding once (Figueroa, "When is double rounding innocuous?", 1995: 24 >= 2 * 11 + 2).
struct HalfArithmetic {
    using Stored = uint16_t;
    using Computed = float;
    static float Load(uint16_t bits) { return FloatFromHalf(bits); }
    static uint16_t Store(float value) { return HalfFromFloat(value); }
};
template <typename T, typename Wide = T>
struct PlainArithmetic {
    using Stored = T;
    using Computed = Wide;
    static Wide Load(T value) { return static_cast<Wide>(value); }
    static T Store(Wide value) { return static_cast<T>(value); }
};
using FloatArithmetic = PlainArithmetic<float>;
using Int16Arithmetic = PlainArithmetic<int16_t, uint32_t>;  // wraps around
using Int32Arithmetic = PlainArithmetic<int32_t, uint32_t>;

// dst may be src0 or src1: one element is read before it is written.
template <typename Arithmetic, typename Operation>
SIM_LOOP void BinaryLoop(const VectorOperands& operands) {
    using Stored = typename Arithmetic::Stored;
    Stored* const dst = static_cast<Stored*>(operands.dst);
    const Stored* const src0 = static_cast<const Stored*>(operands.src0);
    const Stored* const src1 = static_cast<const Stored*>(operands.src1);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = Arithmetic::Store(Operation::Apply(Arithmetic::Load(src0[i]), Arithmetic::Load(src1[i])));
    }
}

template <typename Arithmetic, typename Operation>
SIM_LOOP void ScalarLoop(const VectorOperands& operands) {
    using Stored = typename Arithmetic::Stored;
    Stored* const dst = static_cast<Stored*>(operands.dst);
    const Stored* const src = static_cast<const Stored*>(operands.src0);
    const typename Arithmetic::Computed scalar = Arithmetic::Load(ScalarOf<Stored>(operands));
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = Arithmetic::Store(Operation::Apply(Arithmetic::Load(src[i]), scalar));
    }
}

template <typename T>
SIM_LOOP void FillLoop(const VectorOperands& operands) {
    T* const dst = static_cast<T*>(operands.dst);
    const T value = ScalarOf<T>(operands);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = value;
    }
}

SIM_LOOP void WidenHalf(const VectorOperands& operands) {
    float* const dst = static_cast<float*>(operands.dst);
    const uint16_t* const src = static_cast<const uint16_t*>(operands.src0);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = FloatFromHalf(src[i]);
    }
}

SIM_LOOP void WidenBfloat16(const VectorOperands& operands) {
    float* const dst = static_cast<float*>(operands.dst);
    const uint16_t* const src = static_cast<const uint16_t*>(operands.src0);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = FloatFromBfloat16(src[i]);
    }
}

SIM_LOOP void NarrowToHalf(const VectorOperands& operands) {
    uint16_t* const dst = static_cast<uint16_t*>(operands.dst);
    const float* const src = static_cast<const float*>(operands.src0);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = HalfFromFloat(src[i]);
    }
}

SIM_LOOP void NarrowToBfloat16(const VectorOperands& operands) {
    uint16_t* const dst = static_cast<uint16_t*>(operands.dst);
    const float* const src = static_cast<const float*>(operands.src0);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = Bfloat16FromFloat(src[i]);
    }
}

template <uint16_t (*Narrow)(float, Rounding)>
void NarrowByMode(const VectorOperands& operands) {
    uint16_t* const dst = static_cast<uint16_t*>(operands.dst);
    const float* const src = static_cast<const float*>(operands.src0);
    const Rounding mode = static_cast<Rounding>(operands.round_mode);
    for (int64_t i = 0; i < operands.count; ++i) {
        dst[i] = Narrow(src[i], mode);
    }
}

VectorLoop FindCast(Element dst, Element src, int mode, std::string* supported) {
    const bool to_float = dst == Element::kFloat && (src == Element::kHalf || src == Element::kBfloat16);
    if (to_float) {
        *supported = "CAST_NONE";
        return mode != kNone ? nullptr : src == Element::kHalf ? WidenHalf : WidenBfloat16;
    }
    if (src == Element::kFloat && dst == Element::kHalf) {
        *supported = "CAST_NONE, CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC, CAST_ODD";
        if (mode == kNone || mode == kRint) {
            return NarrowToHalf;
        }
        return mode <= kOdd ? NarrowByMode<HalfFromFloat> : nullptr;
    }
    if (src == Element::kFloat && dst == Element::kBfloat16) {
        *supported = "CAST_RINT, CAST_FLOOR, CAST_CEIL, CAST_ROUND, CAST_TRUNC";
        if (mode == kRint) {
            return NarrowToBfloat16;
        }
        return mode >= kFloor && mode <= kTrunc ? NarrowByMode<Bfloat16FromFloat> : nullptr;
    }
    *supported = "half and bfloat16_t to float, float to half and bfloat16_t";
    return nullptr;
}

VectorLoop FindFill(Element element, std::string* supported) {
    *supported = "int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float";
    switch (element) {
        case Element::kInt16:
        case Element::kUint16:
        case Element::kHalf:
        case Element::kBfloat16:
            return FillLoop<uint16_t>;
        case Element::kInt32:
        case Element::kUint32:
        case Element::kFloat:
            return FillLoop<uint32_t>;
        default:
            return nullptr;
    }
}

template <template <typename, typename> class Loops, typename Operation>
VectorLoop FindArithmetic(Element element, std::string* supported) {
    *supported = "int16_t, half, int32_t, float; cast bfloat16_t to float and back";
    switch (element) {
        case Element::kFloat:
            return Loops<FloatArithmetic, Operation>::Run;
        case Element::kHalf:
            return Loops<HalfArithmetic, Operation>::Run;
        case Element::kInt32:
            return Loops<Int32Arithmetic, Operation>::Run;
        case Element::kInt16:
            return Loops<Int16Arithmetic, Operation>::Run;
        default:
            return nullptr;
    }
}

template <typename Arithmetic, typename Operation>
struct BinaryLoops {
    static void Run(const VectorOperands& operands) { BinaryLoop<Arithmetic, Operation>(operands); }
};
template <typename Arithmetic, typename Operation>
struct ScalarLoops {
    static void Run(const VectorOperands& operands) { ScalarLoop<Arithmetic, Operation>(operands); }
};

// Infinity has an exponent of all ones and no fraction; the largest finite value is right below it.
template <typename Bits, Bits kInfinity>
void SaturateBits(Bits* values, int64_t count) {
    constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    for (int64_t i = 0; i < count; ++i) {
        const Bits magnitude = static_cast<Bits>(values[i] & ~kSign);
        if (magnitude > kInfinity) {
            values[i] = 0;
        } else if (magnitude == kInfinity) {
            values[i] = static_cast<Bits>(values[i] - 1);
        }
    }
}

}  // namespace

void Saturate(Element element, void* values, int64_t count) {
    if (element == Element::kFloat) {
        SaturateBits<uint32_t, 0x7F800000>(static_cast<uint32_t*>(values), count);
    } else if (element == Element::kHalf) {
        SaturateBits<uint16_t, 0x7C00>(static_cast<uint16_t*>(values), count);
    } else if (element == Element::kBfloat16) {
        SaturateBits<uint16_t, 0x7F80>(static_cast<uint16_t*>(values), count);
    }
}

VectorLoop FindVectorLoop(VectorOp op, Element dst, Element src, int round_mode, std::string* supported) {
    switch (op) {
        case VectorOp::kAdd:
            return FindArithmetic<BinaryLoops, AddOf>(dst, supported);
        case VectorOp::kSub:
            return FindArithmetic<BinaryLoops, SubOf>(dst, supported);
        case VectorOp::kMul:
            return FindArithmetic<BinaryLoops, MulOf>(dst, supported);
        case VectorOp::kMuls:
            return FindArithmetic<ScalarLoops, MulOf>(dst, supported);
        case VectorOp::kDuplicate:
            return FindFill(dst, supported);
        case VectorOp::kCast:
            return FindCast(dst, src, round_mode, supported);
    }
    return nullptr;
}

}  // namespace sim
