// Stand-in for the umbrella header of Ascend C: the calls that vector kernels of this repository use, with the public
// signatures and limits. Every call cites the public document or header that it models. Paths are those of the
// repository asc-devkit, whose documents are under docs/zh/api/SIMD-API/基础API. If the public sources leave a question
// open, the stricter reading is taken, and the comment says so.
#ifndef KERNEL_OPERATOR_H_
#define KERNEL_OPERATOR_H_

#include "basic_api/kernel_macros.h"
#include "basic_api/kernel_operator_block_sync_intf.h"
#include "basic_api/kernel_operator_data_copy_intf.h"
#include "basic_api/kernel_operator_scalar_intf.h"
#include "basic_api/kernel_operator_sys_var_intf.h"
#include "basic_api/kernel_operator_vec_intf.h"
#include "basic_api/kernel_tensor.h"
#include "basic_api/kernel_tiling.h"
#include "basic_api/kernel_tpipe.h"
#include "basic_api/kernel_type.h"

#endif  // KERNEL_OPERATOR_H_
