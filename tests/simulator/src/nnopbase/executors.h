// The live executors.
#ifndef SIMULATOR_NNOPBASE_EXECUTORS_H_
#define SIMULATOR_NNOPBASE_EXECUTORS_H_

#include <memory>

#include "executor.h"

namespace sim {

// Adds the executor to the live ones and returns it. Thread-safe.
aclOpExecutor* KeepExecutor(std::unique_ptr<aclOpExecutor> executor);

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_EXECUTORS_H_
