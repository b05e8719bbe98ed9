// Qualifiers of the device compiler, which mean nothing on the host.
// Models: impl/basic_api/kernel_macros.h.
#ifndef BASIC_API_KERNEL_MACROS_H_
#define BASIC_API_KERNEL_MACROS_H_

#include <cstdint>

#define __aicore__
#define __global__
#define __gm__
#define __ubuf__

#define GM_ADDR __gm__ uint8_t*

#endif  // BASIC_API_KERNEL_MACROS_H_
