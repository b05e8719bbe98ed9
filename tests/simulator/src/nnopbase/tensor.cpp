#include "tensor.h"

#include <memory>
#include <mutex>
#include <set>

#include "acl/accounts.h"
#include "acl/last_error.h"
#include "acl/runtime.h"
#include "core/report.h"
#include "status.h"

namespace {

std::mutex g_mutex;
std::set<const aclTensor*> g_live;

}  // namespace

uint64_t aclTensor::Elements() const {
    uint64_t elements = 1;
    for (const int64_t dim : dims) {
        elements *= static_cast<uint64_t>(dim);
    }
    return elements;
}

uint64_t aclTensor::Bytes() const { return Elements() * sim::BytesOf(data_type); }

bool aclTensor::IsContiguous() const {
    int64_t expected = 1;
    for (size_t i = dims.size(); i-- > 0;) {
        if (dims[i] != 1 && strides[i] != expected) {
            return Elements() == 0;
        }
        expected *= dims[i];
    }
    return true;
}

void* aclTensor::Begin() const {
    return data == nullptr ? nullptr
                           : static_cast<unsigned char*>(data) + offset * static_cast<int64_t>(sim::BytesOf(data_type));
}

gert::Shape aclTensor::Shape() const {
    gert::Shape shape;
    for (const int64_t dim : dims) {
        shape.AppendDim(dim);
    }
    return shape;
}

namespace sim {

uint64_t BytesOf(aclDataType type) {
    switch (type) {
        case ACL_INT8:
        case ACL_UINT8:
        case ACL_BOOL:
            return 1;
        case ACL_FLOAT16:
        case ACL_BF16:
        case ACL_INT16:
        case ACL_UINT16:
            return 2;
        case ACL_FLOAT:
        case ACL_INT32:
        case ACL_UINT32:
            return 4;
        case ACL_INT64:
        case ACL_UINT64:
        case ACL_DOUBLE:
            return 8;
        case ACL_DT_UNDEFINED:
            break;
    }
    return 0;
}

bool IsLive(const aclTensor* tensor) {
    const std::lock_guard<std::mutex> lock(g_mutex);
    return g_live.count(tensor) != 0;
}

}  // namespace sim

aclTensor* aclCreateTensor(const int64_t* viewDims, uint64_t viewDimsNum, aclDataType dataType, const int64_t* stride,
                           int64_t offset, aclFormat format, const int64_t* storageDims, uint64_t storageDimsNum,
                           void* tensorData) {
    if (sim::Call("aclCreateTensor").code() != 0) {
        return nullptr;
    }
    if ((viewDims == nullptr && viewDimsNum > 0) || (storageDims == nullptr && storageDimsNum > 0)) {
        sim::FailWith(sim::kAclnnNull, "aclCreateTensor without dimensions");
        return nullptr;
    }
    auto tensor = std::make_unique<aclTensor>();
    tensor->dims.assign(viewDims, viewDims + viewDimsNum);
    tensor->storage_dims.assign(storageDims, storageDims + storageDimsNum);
    tensor->offset = offset;
    tensor->data_type = dataType;
    tensor->format = format;
    tensor->data = tensorData;
    for (const int64_t dim : tensor->dims) {
        if (dim < 0) {
            sim::FailWith(sim::kAclnnInvalid, "aclCreateTensor with a negative dimension");
            return nullptr;
        }
    }
    tensor->strides.resize(viewDimsNum);
    int64_t next = 1;
    for (uint64_t i = viewDimsNum; i-- > 0;) {
        tensor->strides[i] = stride != nullptr ? stride[i] : next;
        // The product of the dimensions of a tensor without elements may overflow, but is never used.
        next = static_cast<int64_t>(static_cast<uint64_t>(next) * static_cast<uint64_t>(tensor->dims[i]));
    }
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_live.insert(tensor.get());
    sim::Account(sim::Resource::kTensor, 1);
    return tensor.release();
}

aclnnStatus aclDestroyTensor(const aclTensor* tensor) {
    const sim::Call call("aclDestroyTensor");
    if (call.code() != 0) {
        return call.code();
    }
    {
        const std::lock_guard<std::mutex> lock(g_mutex);
        if (g_live.erase(tensor) == 0) {
            return sim::FailWith(sim::kAclnnInvalid, "aclDestroyTensor: no tensor, or one destroyed before");
        }
    }
    sim::Account(sim::Resource::kTensor, -1);
    delete tensor;
    return 0;
}
