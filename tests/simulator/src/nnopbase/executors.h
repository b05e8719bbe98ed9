// The executors that live.
#ifndef SIMULATOR_NNOPBASE_EXECUTORS_H_
#define SIMULATOR_NNOPBASE_EXECUTORS_H_

#include <memory>

#include "executor.h"

namespace sim {

// Takes the executor into the account of those that live, and returns it. Thread-safe.
aclOpExecutor* KeepExecutor(std::unique_ptr<aclOpExecutor> executor);

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_EXECUTORS_H_
