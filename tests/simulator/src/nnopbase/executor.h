// A prepared call of an operator.
#ifndef SIMULATOR_NNOPBASE_EXECUTOR_H_
#define SIMULATOR_NNOPBASE_EXECUTOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "core/launch.h"
#include "simulator/operator.h"

// The tensors' addresses are part of the request and may be set anew; the rest stays.
struct aclOpExecutor {
    sim::LaunchRequest request;
    size_t inputs = 0;
    uint64_t workspace_bytes = 0;
    bool repeatable = false;
};

namespace sim {

// Returns how many executors live.
size_t LiveExecutors();

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_EXECUTOR_H_
