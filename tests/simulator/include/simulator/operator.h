// The two phases of any operator, which the generated operator API calls. Exported by libnnopbase.so.
#ifndef SIMULATOR_OPERATOR_H_
#define SIMULATOR_OPERATOR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "aclnn/acl_meta.h"
#include "graph/types.h"

namespace sim {

// The kernel of an operator for one dtype of its first input.
struct KernelOfDtype {
    ge::DataType dtype;
    void (*entry)();
};

// Registers the kernels of an operator; called while the library that holds them is loaded.
__attribute__((visibility("default"))) int RegisterKernels(const char* op_type, const char* kernel_name,
                                                           const std::vector<KernelOfDtype>& kernels);

// An attribute as the caller gave it; without a value, the default of the definition.
using AttributeValue = std::optional<std::variant<std::string, int64_t>>;

inline AttributeValue OptionalText(const char* text) {
    return text == nullptr ? AttributeValue() : AttributeValue(std::string(text));
}

// First phase: checks, infers, plans. Returns a code of the operator API.
__attribute__((visibility("default"))) aclnnStatus Prepare(const char* op_type,
                                                           const std::vector<const aclTensor*>& inputs,
                                                           const std::vector<AttributeValue>& attributes,
                                                           const std::vector<const aclTensor*>& outputs,
                                                           uint64_t* workspace_size, aclOpExecutor** executor);

// Second phase: queues the launch in the stream. Returns a code of the operator API.
__attribute__((visibility("default"))) aclnnStatus Run(const char* op_type, void* workspace, uint64_t workspace_size,
                                                       aclOpExecutor* executor, aclrtStream stream);

}  // namespace sim

extern "C" {

// Makes the operator run `entry` for `dtype` from its next first phase on; null restores its own kernel.
// Thread-safe. Exported by libnnopbase.so.
__attribute__((visibility("default"))) void AscendSimulatorReplaceKernel(const char* op_type, int32_t dtype,
                                                                         void (*entry)());

// Copies at most `bytes` bytes of the tiling data of a prepared call to `tiling`; returns the number of blocks of the
// launch, or -1 without an executor. Thread-safe. Exported by libnnopbase.so.
__attribute__((visibility("default"))) int64_t AscendSimulatorTiling(aclOpExecutor* executor, void* tiling,
                                                                     uint64_t bytes);

// Returns the number of live tensors and executors. Thread-safe. Exported by libnnopbase.so.
__attribute__((visibility("default"))) uint64_t AscendSimulatorLiveHandles();
}

#endif  // SIMULATOR_OPERATOR_H_
