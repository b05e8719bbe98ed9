// Conversions of single values, pipe S.
// Models: 标量计算/Cast（多类型转float）.md, Cast（float转bfloat16_t）.md: not supported on Atlas 200I/500 A2.
#ifndef BASIC_API_KERNEL_OPERATOR_SCALAR_INTF_H_
#define BASIC_API_KERNEL_OPERATOR_SCALAR_INTF_H_

#include "simulator/device.h"

namespace AscendC {

inline float Cast(const bfloat16_t& bVal) {
    sim::RequireScalarBfloat16("Cast(bfloat16_t)");
    return bVal.Widened();
}

inline bfloat16_t Cast(const float& fVal) {
    sim::RequireScalarBfloat16("Cast(float)");
    return bfloat16_t(fVal);
}

// The names of toolkits before 8.5.
inline float ToFloat(const bfloat16_t& bVal) { return Cast(bVal); }
inline bfloat16_t ToBfloat16(const float& fVal) { return Cast(fVal); }

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_OPERATOR_SCALAR_INTF_H_
