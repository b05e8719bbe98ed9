// Macros with which a kernel reads its tiling data.
// Models: Kernel-Tiling/*.md: one plain struct, registered as the default, read from the tiling argument.
#ifndef BASIC_API_KERNEL_TILING_H_
#define BASIC_API_KERNEL_TILING_H_

#include <type_traits>

#include "simulator/device.h"

#define REGISTER_TILING_DEFAULT(Struct)    \
    using RegisteredTilingStruct = Struct; \
    static_assert(std::is_trivially_copyable_v<RegisteredTilingStruct>, "tiling data is copied as bytes")

#define GET_TILING_DATA(name, tiling) \
    RegisteredTilingStruct name;      \
    sim::ReadTiling(tiling, &name, sizeof(name))

#define GET_TILING_DATA_WITH_STRUCT(Struct, name, tiling) \
    Struct name;                                          \
    sim::ReadTiling(tiling, &name, sizeof(name))

#define TILING_KEY_IS(key) (sim::TilingKey() == (key))

#endif  // BASIC_API_KERNEL_TILING_H_
