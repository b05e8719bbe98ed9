// Contexts of an operator's InferShape and InferDataType.
// Models: hicann/metadef inc/external/exe_graph/runtime/infer_shape_context.h, infer_datatype_context.h.
#ifndef EXE_GRAPH_RUNTIME_INFER_SHAPE_CONTEXT_H_
#define EXE_GRAPH_RUNTIME_INFER_SHAPE_CONTEXT_H_

#include <string>
#include <utility>
#include <vector>

#include "exe_graph/runtime/shape.h"

namespace gert {

class InferShapeContext {
public:
    InferShapeContext(std::string node_name, std::vector<Shape> inputs, size_t outputs)
        : node_name_(std::move(node_name)), inputs_(std::move(inputs)), outputs_(outputs) {}

    const char* GetNodeName() const { return node_name_.c_str(); }
    const Shape* GetInputShape(const size_t index) const { return index < inputs_.size() ? &inputs_[index] : nullptr; }
    Shape* GetOutputShape(const size_t index) { return index < outputs_.size() ? &outputs_[index] : nullptr; }

private:
    std::string node_name_;
    std::vector<Shape> inputs_;
    std::vector<Shape> outputs_;
};

class InferDataTypeContext {
public:
    InferDataTypeContext(std::string node_name, std::vector<ge::DataType> inputs, size_t outputs)
        : node_name_(std::move(node_name)), inputs_(std::move(inputs)), outputs_(outputs, ge::DT_UNDEFINED) {}

    const char* GetNodeName() const { return node_name_.c_str(); }
    ge::DataType GetInputDataType(const size_t index) const {
        return index < inputs_.size() ? inputs_[index] : ge::DT_UNDEFINED;
    }
    ge::DataType GetOutputDataType(const size_t index) const {
        return index < outputs_.size() ? outputs_[index] : ge::DT_UNDEFINED;
    }
    ge::graphStatus SetOutputDataType(const size_t index, const ge::DataType datatype) {
        if (index >= outputs_.size()) {
            return ge::GRAPH_FAILED;
        }
        outputs_[index] = datatype;
        return ge::GRAPH_SUCCESS;
    }

private:
    std::string node_name_;
    std::vector<ge::DataType> inputs_;
    std::vector<ge::DataType> outputs_;
};

}  // namespace gert

#endif  // EXE_GRAPH_RUNTIME_INFER_SHAPE_CONTEXT_H_
