// Enumerations of the Ascend C API.
#ifndef BASIC_API_KERNEL_TYPE_H_
#define BASIC_API_KERNEL_TYPE_H_

#include <cstdint>
#include <type_traits>

#include "simulator/device.h"

// Models: 同步控制/核内同步/核内同步能力概述.md, the pipes of a vector core. The others exist only to be refused.
enum pipe_t { PIPE_S, PIPE_V, PIPE_M, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_ALL };

// Models: the event ids of a product with 8 of them (同步控制/核内同步/SetFlag-WaitFlag(ISASI).md).
enum event_t { EVENT_ID0, EVENT_ID1, EVENT_ID2, EVENT_ID3, EVENT_ID4, EVENT_ID5, EVENT_ID6, EVENT_ID7 };

namespace AscendC {

// Models: impl/basic_api/common_types.h.
enum class TPosition : uint8_t {
    GM,
    A1,
    A2,
    B1,
    B2,
    C1,
    C2,
    CO1,
    CO2,
    VECIN,
    VECOUT,
    VECCALC,
    LCM = VECCALC,
    SPM,
    SHM = SPM,
    TSCM,
    C2PIPE2GM,
    C2PIPE2LOCAL,
    MAX,
};
using QuePosition = TPosition;

// Models: Memory矢量计算/类型转换/Cast.md, the table of rounding modes.
enum class RoundMode {
    CAST_NONE = 0,  // as CAST_RINT if precision is lost
    CAST_RINT,      // nearest, ties to even
    CAST_FLOOR,     // towards minus infinity
    CAST_CEIL,      // towards plus infinity
    CAST_ROUND,     // nearest, ties away from zero
    CAST_TRUNC,     // towards zero
    CAST_ODD,       // Von Neumann: towards zero, then the last bit is set if anything was lost
    CAST_HYBRID,    // only on products with hifloat8_t; refused
};

using TEventID = int8_t;

// Models: impl/basic_api/kernel_event.h, the events of a vector core. The name V_MTE3 says that MTE3 waits for V.
enum class HardEvent : uint8_t {
    MTE2_V,
    V_MTE2,
    MTE3_V,
    V_MTE3,
    MTE3_MTE2,
    MTE2_MTE3,
    S_V,
    V_S,
    S_MTE2,
    MTE2_S,
    S_MTE3,
    MTE3_S,
    MAX,
};

// Models: impl/basic_api/utils; kernels branch with it on the type of an element.
template <typename T, typename U>
using IsSameType = std::is_same<T, U>;

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_TYPE_H_
