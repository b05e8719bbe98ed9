// A prepared call of an operator.
#ifndef SIMULATOR_NNOPBASE_EXECUTOR_H_
#define SIMULATOR_NNOPBASE_EXECUTOR_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/launch.h"
#include "simulator/operator.h"

// The addresses of the tensors are part of the request and may be set again; the rest is fixed.
struct aclOpExecutor {
    sim::LaunchRequest request;
    size_t inputs = 0;
    uint64_t workspace_bytes = 0;
    bool repeatable = false;
    std::vector<const aclTensor*> tensors;                                             // they must outlive the executor
    std::shared_ptr<std::atomic<int>> queued = std::make_shared<std::atomic<int>>(0);  // launches that have not run
};

#endif  // SIMULATOR_NNOPBASE_EXECUTOR_H_
