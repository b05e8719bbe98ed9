// The objects behind the pointers of the operator API.
#ifndef SIMULATOR_NNOPBASE_TENSOR_H_
#define SIMULATOR_NNOPBASE_TENSOR_H_

#include <cstdint>
#include <vector>

#include "aclnn/acl_meta.h"
#include "exe_graph/runtime/shape.h"

struct aclTensor {
    std::vector<int64_t> dims;
    std::vector<int64_t> strides;  // elements
    std::vector<int64_t> storage_dims;
    int64_t offset = 0;  // elements
    aclDataType data_type = ACL_DT_UNDEFINED;
    aclFormat format = ACL_FORMAT_UNDEFINED;
    void* data = nullptr;

    uint64_t Elements() const;
    uint64_t Bytes() const;
    bool IsContiguous() const;
    void* Begin() const;  // of the view; null for a tensor without memory
    gert::Shape Shape() const;
};

namespace sim {

// Returns the bytes of one element; 0 for an unknown type.
uint64_t BytesOf(aclDataType type);

// Returns whether `tensor` is live: created and not destroyed.
bool IsLive(const aclTensor* tensor);

}  // namespace sim

#endif  // SIMULATOR_NNOPBASE_TENSOR_H_
