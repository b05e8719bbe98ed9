// Definitions of operators and their registry; shapes.
#include <algorithm>
#include <map>
#include <memory>

#include "register/op_def_registry.h"

namespace gert {

bool Shape::operator==(const Shape& other) const {
    return dim_num_ == other.dim_num_ && std::equal(dims_, dims_ + dim_num_, other.dims_);
}

int64_t Shape::GetShapeSize() const {
    int64_t size = 1;
    for (size_t i = 0; i < dim_num_; ++i) {
        if (__builtin_mul_overflow(size, dims_[i], &size)) {
            return kInvalidDimValue;
        }
    }
    return size;
}

}  // namespace gert

namespace ops {
namespace {

template <typename Def>
Def& FindOrAdd(std::deque<Def>& defs, const char* name) {
    const auto found = std::find_if(defs.begin(), defs.end(), [&](const Def& def) { return def.Name() == name; });
    return found != defs.end() ? *found : defs.emplace_back(name);
}

struct Registry {
    std::vector<std::string> types;
    std::map<std::string, std::unique_ptr<OpDef>> definitions;
};

// Libraries register while they are loaded, before any other code of theirs runs.
Registry& TheRegistry() {
    static Registry registry;
    return registry;
}

}  // namespace

OpParamDef& OpParamDef::ParamType(Option param_type) {
    type_ = param_type;
    return *this;
}

OpParamDef& OpParamDef::DataType(std::vector<ge::DataType> types) {
    types_ = std::move(types);
    return *this;
}

OpParamDef& OpParamDef::Format(std::vector<ge::Format> formats) {
    formats_ = std::move(formats);
    return *this;
}

OpAttrDef& OpAttrDef::AttrType(Option attr_type) {
    required_ = attr_type == REQUIRED;
    return *this;
}

OpAttrDef& OpAttrDef::String() {
    kind_ = Kind::kString;
    return *this;
}

OpAttrDef& OpAttrDef::String(const char* value) {
    string_ = value;
    return String();
}

OpAttrDef& OpAttrDef::Int() {
    kind_ = Kind::kInt;
    return *this;
}

OpAttrDef& OpAttrDef::Int(int64_t value) {
    int_ = value;
    return Int();
}

OpAICoreDef& OpAICoreDef::SetTiling(TilingFunction function) {
    tiling_ = function;
    return *this;
}

OpAICoreDef& OpAICoreDef::AddConfig(const char* soc) {
    configs_.push_back(soc);
    return *this;
}

bool OpAICoreDef::Supports(const std::string& family) const {
    return std::find(configs_.begin(), configs_.end(), family) != configs_.end();
}

OpParamDef& OpDef::Input(const char* name) { return FindOrAdd(inputs_, name); }
OpParamDef& OpDef::Output(const char* name) { return FindOrAdd(outputs_, name); }
OpAttrDef& OpDef::Attr(const char* name) { return FindOrAdd(attrs_, name); }

OpDef& OpDef::SetInferShape(InferShapeFunction function) {
    infer_shape_ = function;
    return *this;
}

OpDef& OpDef::SetInferDataType(InferDataTypeFunction function) {
    infer_data_type_ = function;
    return *this;
}

int OpDefFactory::Register(const char* type, Creator creator) {
    Registry& registry = TheRegistry();
    if (registry.definitions.count(type) == 0) {
        registry.types.push_back(type);
    }
    registry.definitions[type] = std::make_unique<OpDef>(creator(type));
    return 0;
}

std::vector<std::string> OpDefFactory::Types() { return TheRegistry().types; }

const OpDef* OpDefFactory::Find(const std::string& type) {
    const auto found = TheRegistry().definitions.find(type);
    return found == TheRegistry().definitions.end() ? nullptr : found->second.get();
}

}  // namespace ops
