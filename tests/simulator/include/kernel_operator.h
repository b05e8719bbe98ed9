// Stand-in for the umbrella header of Ascend C: what a vector kernel of this repository uses, with the public
// signatures and limits. Every call cites the public document or header that it models; paths are those of the
// repository asc-devkit, documents lie under docs/zh/api/SIMD-API/基础API. Where the public sources leave something
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
