// Number of the calling core within the launch.
// Models: 工具接口/系统资源与变量/GetBlockIdx.md, GetBlockNum.md.
#ifndef BASIC_API_KERNEL_OPERATOR_SYS_VAR_INTF_H_
#define BASIC_API_KERNEL_OPERATOR_SYS_VAR_INTF_H_

#include "simulator/device.h"

namespace AscendC {

inline int64_t GetBlockIdx() { return sim::BlockIndex(); }
inline int64_t GetBlockNum() { return sim::BlockCount(); }

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_OPERATOR_SYS_VAR_INTF_H_
