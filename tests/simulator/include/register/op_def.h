// The definition of an operator.
// Models: hicann/metadef inc/external/asc/register/op_def.h.
#ifndef REGISTER_OP_DEF_H_
#define REGISTER_OP_DEF_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "exe_graph/runtime/infer_shape_context.h"
#include "exe_graph/runtime/tiling_context.h"
#include "graph/types.h"

namespace ops {

enum Option { IGNORE = 0, OPTIONAL = 1, REQUIRED = 2, DYNAMIC = 3, VIRTUAL = 4 };

using InferShapeFunction = uint32_t (*)(gert::InferShapeContext*);
using InferDataTypeFunction = uint32_t (*)(gert::InferDataTypeContext*);
using TilingFunction = uint32_t (*)(gert::TilingContext*);

// An input or output. The operator supports the n-th entries of DataType and Format of all of them together.
class OpParamDef {
public:
    explicit OpParamDef(const char* name) : name_(name) {}

    OpParamDef& ParamType(Option param_type);
    OpParamDef& DataType(std::vector<ge::DataType> types);
    OpParamDef& Format(std::vector<ge::Format> formats);

    // For the simulator.
    const std::string& Name() const { return name_; }
    Option Type() const { return type_; }
    const std::vector<ge::DataType>& DataTypes() const { return types_; }
    const std::vector<ge::Format>& Formats() const { return formats_; }

private:
    std::string name_;
    Option type_ = REQUIRED;
    std::vector<ge::DataType> types_;
    std::vector<ge::Format> formats_;
};

class OpAttrDef {
public:
    enum class Kind { kNone, kString, kInt };

    explicit OpAttrDef(const char* name) : name_(name) {}

    OpAttrDef& AttrType(Option attr_type);
    OpAttrDef& String();
    OpAttrDef& String(const char* value);
    OpAttrDef& Int();
    OpAttrDef& Int(int64_t value);
    bool IsRequired() const { return required_; }

    // For the simulator.
    const std::string& Name() const { return name_; }
    Kind ValueKind() const { return kind_; }
    const std::string& DefaultString() const { return string_; }
    int64_t DefaultInt() const { return int_; }

private:
    std::string name_;
    bool required_ = true;
    Kind kind_ = Kind::kNone;
    std::string string_;
    int64_t int_ = 0;
};

class OpAICoreDef {
public:
    OpAICoreDef& SetTiling(TilingFunction function);
    OpAICoreDef& AddConfig(const char* soc);

    // For the simulator.
    TilingFunction Tiling() const { return tiling_; }
    bool Supports(const std::string& family) const;

private:
    TilingFunction tiling_ = nullptr;
    std::vector<std::string> configs_;
};

class OpDef {
public:
    explicit OpDef(const char* type) : type_(type) {}

    // Adds one, or returns the existing one. References stay valid.
    OpParamDef& Input(const char* name);
    OpParamDef& Output(const char* name);
    OpAttrDef& Attr(const char* name);

    OpDef& SetInferShape(InferShapeFunction function);
    OpDef& SetInferDataType(InferDataTypeFunction function);
    OpAICoreDef& AICore() { return aicore_; }

    // For the simulator.
    const std::string& Type() const { return type_; }
    const std::deque<OpParamDef>& Inputs() const { return inputs_; }
    const std::deque<OpParamDef>& Outputs() const { return outputs_; }
    const std::deque<OpAttrDef>& Attrs() const { return attrs_; }
    InferShapeFunction InferShape() const { return infer_shape_; }
    InferDataTypeFunction InferDataType() const { return infer_data_type_; }
    const OpAICoreDef& AICore() const { return aicore_; }

private:
    std::string type_;
    std::deque<OpParamDef> inputs_;
    std::deque<OpParamDef> outputs_;
    std::deque<OpAttrDef> attrs_;
    InferShapeFunction infer_shape_ = nullptr;
    InferDataTypeFunction infer_data_type_ = nullptr;
    OpAICoreDef aicore_;
};

}  // namespace ops

#endif  // REGISTER_OP_DEF_H_
