// The kernels of the operators.
#ifndef SIMULATOR_NNOPBASE_KERNELS_H_
#define SIMULATOR_NNOPBASE_KERNELS_H_

#include <string>

#include "core/launch.h"
#include "graph/types.h"

namespace sim {

// Fills name and entry of `request`; returns false if the operator has no kernel for `dtype`. Thread-safe.
bool FindKernel(const std::string& op_type, ge::DataType dtype, LaunchRequest* request);

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_KERNELS_H_
