// Shapes, for the functions of an operator.
// Models: hicann/metadef inc/external/exe_graph/runtime/shape.h, storage_shape.h, compute_node_info.h.
#ifndef EXE_GRAPH_RUNTIME_SHAPE_H_
#define EXE_GRAPH_RUNTIME_SHAPE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "graph/types.h"

namespace gert {

class Shape {
public:
    static constexpr size_t kMaxDimNum = 25;
    static constexpr int64_t kInvalidDimValue = INT64_MIN;

    Shape() = default;
    Shape(const std::initializer_list<int64_t>& args) {
        for (const int64_t arg : args) {
            AppendDim(arg);
        }
    }

    bool operator==(const Shape& other) const;
    bool operator!=(const Shape& other) const { return !(*this == other); }

    // Returns the product of the extents, or kInvalidDimValue if it does not fit.
    int64_t GetShapeSize() const;

    bool IsScalar() const { return dim_num_ == 0; }
    size_t GetDimNum() const { return dim_num_; }
    void SetDimNum(const size_t dim_num) { dim_num_ = dim_num; }
    int64_t GetDim(const size_t idx) const { return idx < kMaxDimNum ? dims_[idx] : kInvalidDimValue; }
    void SetDim(const size_t idx, const int64_t value) {
        if (idx < kMaxDimNum) {
            dims_[idx] = value;
        }
    }
    Shape& AppendDim(const int64_t value) {
        if (dim_num_ < kMaxDimNum) {
            dims_[dim_num_++] = value;
        }
        return *this;
    }

private:
    size_t dim_num_ = 0;
    int64_t dims_[kMaxDimNum] = {};
};

class StorageShape {
public:
    StorageShape() = default;
    StorageShape(const Shape& origin, const Shape& storage) : origin_(origin), storage_(storage) {}

    const Shape& GetOriginShape() const { return origin_; }
    const Shape& GetStorageShape() const { return storage_; }

private:
    Shape origin_;
    Shape storage_;
};

class CompileTimeTensorDesc {
public:
    ge::DataType GetDataType() const { return data_type_; }
    void SetDataType(const ge::DataType data_type) { data_type_ = data_type; }

private:
    ge::DataType data_type_ = ge::DT_UNDEFINED;
};

}  // namespace gert

#endif  // EXE_GRAPH_RUNTIME_SHAPE_H_
