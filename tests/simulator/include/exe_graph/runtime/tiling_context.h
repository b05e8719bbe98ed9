// Context of an operator's tiling function.
// Models: hicann/metadef inc/external/exe_graph/runtime/tiling_context.h.
#ifndef EXE_GRAPH_RUNTIME_TILING_CONTEXT_H_
#define EXE_GRAPH_RUNTIME_TILING_CONTEXT_H_

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "exe_graph/runtime/runtime_attrs.h"
#include "exe_graph/runtime/shape.h"

namespace fe {
class PlatFormInfos;
}

namespace gert {

class TilingContext {
public:
    // Source: OpImplRegisterV2::Tiling in op_impl_registry.h: at most 2048 bytes of tiling data unless told otherwise.
    static constexpr size_t kMaxTilingBytes = 2048;

    struct Tensor {
        StorageShape shape;
        CompileTimeTensorDesc description;
    };

    TilingContext(std::string node_name, std::vector<Tensor> inputs, std::vector<Tensor> outputs, RuntimeAttrs attrs,
                  fe::PlatFormInfos* platform)
        : node_name_(std::move(node_name)),
          inputs_(std::move(inputs)),
          outputs_(std::move(outputs)),
          attrs_(std::move(attrs)),
          platform_(platform) {}

    const char* GetNodeName() const { return node_name_.c_str(); }
    const StorageShape* GetInputShape(const size_t index) const {
        return index < inputs_.size() ? &inputs_[index].shape : nullptr;
    }
    const StorageShape* GetOutputShape(const size_t index) const {
        return index < outputs_.size() ? &outputs_[index].shape : nullptr;
    }
    const CompileTimeTensorDesc* GetInputDesc(const size_t index) const {
        return index < inputs_.size() ? &inputs_[index].description : nullptr;
    }
    const CompileTimeTensorDesc* GetOutputDesc(const size_t index) const {
        return index < outputs_.size() ? &outputs_[index].description : nullptr;
    }
    const RuntimeAttrs* GetAttrs() const { return &attrs_; }
    fe::PlatFormInfos* GetPlatformInfo() const { return platform_; }

    // Returns a T in the tiling data, whose bytes go to the kernel; null if it does not fit.
    template <typename T>
    T* GetTilingData() {
        static_assert(std::is_trivially_copyable_v<T>, "tiling data is copied as bytes");
        if (sizeof(T) > kMaxTilingBytes) {
            return nullptr;
        }
        tiling_data_.assign(sizeof(T), 0);
        return reinterpret_cast<T*>(tiling_data_.data());
    }

    ge::graphStatus SetTilingKey(const uint64_t tiling_key) {
        tiling_key_ = tiling_key;
        return ge::GRAPH_SUCCESS;
    }
    ge::graphStatus SetBlockDim(const uint32_t block_dim) { return SetSimdNumBlocks(block_dim); }
    ge::graphStatus SetSimdNumBlocks(const uint32_t num_blocks) {
        blocks_ = num_blocks;
        return ge::GRAPH_SUCCESS;
    }
    size_t* GetWorkspaceSizes(const size_t workspace_count) {
        workspaces_.resize(workspace_count);
        return workspaces_.data();
    }

    // For the caller of the tiling function.
    uint64_t GetTilingKey() const { return tiling_key_; }
    uint32_t GetBlockDim() const { return blocks_; }
    const std::vector<size_t>& Workspaces() const { return workspaces_; }
    const std::vector<unsigned char>& TilingBytes() const { return tiling_data_; }

private:
    std::string node_name_;
    std::vector<Tensor> inputs_;
    std::vector<Tensor> outputs_;
    RuntimeAttrs attrs_;
    fe::PlatFormInfos* platform_;
    uint64_t tiling_key_ = 0;
    uint32_t blocks_ = 0;
    std::vector<size_t> workspaces_;
    std::vector<unsigned char> tiling_data_;  // aligned for any type, as operator new aligns
};

}  // namespace gert

#endif  // EXE_GRAPH_RUNTIME_TILING_CONTEXT_H_
