// Attributes of an operator, for its functions.
// Models: hicann/metadef inc/external/exe_graph/runtime/runtime_attrs.h.
#ifndef EXE_GRAPH_RUNTIME_RUNTIME_ATTRS_H_
#define EXE_GRAPH_RUNTIME_RUNTIME_ATTRS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace gert {

class RuntimeAttrs {
public:
    using Value = std::variant<std::string, int64_t>;

    explicit RuntimeAttrs(std::vector<Value> values) : values_(std::move(values)) {}

    size_t GetAttrNum() const { return values_.size(); }

    // Returns null if there is no attribute of that type at `index`, its position in the operator's definition.
    const int64_t* GetInt(const size_t index) const {
        return index < values_.size() ? std::get_if<int64_t>(&values_[index]) : nullptr;
    }
    const char* GetStr(const size_t index) const {
        const std::string* text = index < values_.size() ? std::get_if<std::string>(&values_[index]) : nullptr;
        return text == nullptr ? nullptr : text->c_str();
    }

private:
    std::vector<Value> values_;
};

}  // namespace gert

#endif  // EXE_GRAPH_RUNTIME_RUNTIME_ATTRS_H_
