// The first phase of an operator: checks of the call, and the plan of the launch.
#include <memory>

#include "acl/last_error.h"
#include "acl/runtime.h"
#include "core/report.h"
#include "core/settings.h"
#include "executor.h"
#include "executors.h"
#include "kernels.h"
#include "platform.h"
#include "register/op_def_registry.h"
#include "status.h"
#include "tensor.h"

namespace sim {
namespace {

using Tensors = std::vector<const aclTensor*>;

std::string Text(const gert::Shape& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.GetDimNum(); ++i) {
        text += Format("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(shape.GetDim(i)));
    }
    return text + "]";
}

int CheckTensor(const ops::OpParamDef& definition, const aclTensor* tensor) {
    const char* const name = definition.Name().c_str();
    if (tensor == nullptr) {
        return FailWith(kAclnnNull, Format("%s is null", name));
    }
    if (!IsLive(tensor)) {
        return FailWith(kAclnnInvalid, Format("%s is no tensor, or was destroyed", name));
    }
    if (tensor->format != ACL_FORMAT_ND) {
        return FailWith(kAclnnInvalid, Format("%s has format %d; it must be ND (2)", name, tensor->format));
    }
    // Stricter than a toolkit whose operators call AutoContiguous, which ours do not.
    if (!tensor->IsContiguous()) {
        return FailWith(kAclnnInvalid, Format("%s is not contiguous; the operator takes contiguous tensors", name));
    }
    return 0;
}

int CheckTensors(const std::deque<ops::OpParamDef>& definitions, const Tensors& tensors) {
    for (size_t i = 0; i < definitions.size(); ++i) {
        if (const int code = CheckTensor(definitions[i], tensors[i])) {
            return code;
        }
    }
    return 0;
}

bool HasDtypes(const std::deque<ops::OpParamDef>& definitions, const Tensors& tensors, size_t column) {
    for (size_t i = 0; i < definitions.size(); ++i) {
        const std::vector<ge::DataType>& types = definitions[i].DataTypes();
        if (column >= types.size() || static_cast<int>(types[column]) != static_cast<int>(tensors[i]->data_type)) {
            return false;
        }
    }
    return true;
}

int CheckDtypes(const ops::OpDef& op, const Tensors& inputs, const Tensors& outputs) {
    const size_t columns = op.Inputs().front().DataTypes().size();
    for (size_t column = 0; column < columns; ++column) {
        if (HasDtypes(op.Inputs(), inputs, column) && HasDtypes(op.Outputs(), outputs, column)) {
            return 0;
        }
    }
    std::string given;
    for (const Tensors* tensors : {&inputs, &outputs}) {
        for (const aclTensor* tensor : *tensors) {
            given += Format("%s%d", given.empty() ? "" : ", ", tensor->data_type);
        }
    }
    return FailWith(kAclnnInvalid,
                    Format("%s does not support the dtypes %s together", op.Type().c_str(), given.c_str()));
}

// Inference belongs to graphs. A toolkit does not run it here, so a caller sees only the refusals of tiling. The
// simulator runs it after tiling, and the two must agree.
int CheckInference(const ops::OpDef& op, const Tensors& inputs, const Tensors& outputs) {
    std::vector<gert::Shape> shapes;
    std::vector<ge::DataType> dtypes;
    for (const aclTensor* input : inputs) {
        shapes.push_back(input->Shape());
        dtypes.push_back(static_cast<ge::DataType>(input->data_type));
    }
    gert::InferDataTypeContext dtype_context(op.Type(), dtypes, outputs.size());
    if (op.InferDataType() == nullptr || op.InferDataType()(&dtype_context) != ge::GRAPH_SUCCESS) {
        return FailWith(kAclnnInferShape,
                        Format("%s: InferDataType is missing or refused what tiling took", op.Type().c_str()));
    }
    gert::InferShapeContext shape_context(op.Type(), shapes, outputs.size());
    if (op.InferShape() == nullptr || op.InferShape()(&shape_context) != ge::GRAPH_SUCCESS) {
        return FailWith(kAclnnInferShape,
                        Format("%s: InferShape is missing or refused what tiling took", op.Type().c_str()));
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
        if (*shape_context.GetOutputShape(i) != outputs[i]->Shape() ||
            static_cast<int>(dtype_context.GetOutputDataType(i)) != static_cast<int>(outputs[i]->data_type)) {
            return FailWith(kAclnnInferShape,
                            Format("%s: tiling took an output of shape %s and dtype %d, inference gives %s and %d",
                                   op.Type().c_str(), Text(outputs[i]->Shape()).c_str(), outputs[i]->data_type,
                                   Text(*shape_context.GetOutputShape(i)).c_str(), dtype_context.GetOutputDataType(i)));
        }
    }
    return 0;
}

std::vector<gert::TilingContext::Tensor> Describe(const Tensors& tensors) {
    std::vector<gert::TilingContext::Tensor> described;
    for (const aclTensor* tensor : tensors) {
        gert::TilingContext::Tensor entry;
        entry.shape = gert::StorageShape(tensor->Shape(), tensor->Shape());
        entry.description.SetDataType(static_cast<ge::DataType>(tensor->data_type));
        described.push_back(entry);
    }
    return described;
}

std::vector<gert::RuntimeAttrs::Value> Resolve(const ops::OpDef& op, const std::vector<AttributeValue>& given) {
    std::vector<gert::RuntimeAttrs::Value> values;
    for (size_t i = 0; i < op.Attrs().size(); ++i) {
        const ops::OpAttrDef& definition = op.Attrs()[i];
        if (given[i].has_value()) {
            values.push_back(*given[i]);
        } else if (definition.ValueKind() == ops::OpAttrDef::Kind::kString) {
            values.emplace_back(definition.DefaultString());
        } else {
            values.emplace_back(definition.DefaultInt());
        }
    }
    return values;
}

int Plan(const ops::OpDef& op, const Tensors& inputs, const std::vector<AttributeValue>& attributes,
         const Tensors& outputs, aclOpExecutor* executor) {
    const Chip& chip = *CurrentSettings().chip;
    if (!op.AICore().Supports(chip.family)) {
        return FailWith(kAclnnNoKernelPackage, Format("%s has no kernel for %s", op.Type().c_str(), chip.family));
    }
    fe::PlatFormInfos platform(chip);
    gert::TilingContext context(op.Type(), Describe(inputs), Describe(outputs),
                                gert::RuntimeAttrs(Resolve(op, attributes)), &platform);
    if (op.AICore().Tiling() == nullptr || op.AICore().Tiling()(&context) != ge::GRAPH_SUCCESS) {
        return FailWith(kAclnnTiling, Format("%s: tiling failed", op.Type().c_str()));
    }
    if (context.GetBlockDim() == 0) {
        return FailWith(kAclnnTiling, Format("%s: tiling asks for no blocks", op.Type().c_str()));
    }
    executor->request.blocks = context.GetBlockDim();
    executor->request.tiling = context.TilingBytes();
    executor->request.tiling_key = context.GetTilingKey();
    executor->workspace_bytes = 0;
    for (const size_t bytes : context.Workspaces()) {
        executor->workspace_bytes += bytes;
    }
    return 0;
}

void BindTensors(const std::deque<ops::OpParamDef>& definitions, const Tensors& tensors, LaunchRequest* request) {
    for (size_t i = 0; i < tensors.size(); ++i) {
        request->tensors.push_back(
            {definitions[i].Name(), reinterpret_cast<uint64_t>(tensors[i]->Begin()), tensors[i]->Bytes()});
    }
}

}  // namespace

aclnnStatus Prepare(const char* op_type, const Tensors& inputs, const std::vector<AttributeValue>& attributes,
                    const Tensors& outputs, uint64_t* workspace_size, aclOpExecutor** executor) {
    const Call call(std::string("aclnn") + op_type + "GetWorkspaceSize");
    if (call.code() != 0) {
        return call.code();
    }
    if (workspace_size == nullptr || executor == nullptr) {
        return FailWith(kAclnnNull, "workspaceSize or executor is null");
    }
    if (!IsInitialized()) {
        return FailWith(kAclnnRuntime, "the operator API before aclInit");
    }
    const ops::OpDef* const op = ops::OpDefFactory::Find(op_type);
    if (op == nullptr) {
        return FailWith(kAclnnInner, Format("there is no operator %s", op_type));
    }
    int code = CheckTensors(op->Inputs(), inputs);
    code = code != 0 ? code : CheckTensors(op->Outputs(), outputs);
    code = code != 0 ? code : CheckDtypes(*op, inputs, outputs);
    auto prepared = std::make_unique<aclOpExecutor>();
    code = code != 0 ? code : Plan(*op, inputs, attributes, outputs, prepared.get());
    code = code != 0 ? code : CheckInference(*op, inputs, outputs);
    if (code != 0) {
        return code;
    }
    const ge::DataType dtype = static_cast<ge::DataType>(inputs.front()->data_type);
    if (!FindKernel(op->Type(), dtype, &prepared->request)) {
        return FailWith(kAclnnNoKernel, Format("%s has no kernel for dtype %d", op->Type().c_str(), dtype));
    }
    BindTensors(op->Inputs(), inputs, &prepared->request);
    BindTensors(op->Outputs(), outputs, &prepared->request);
    prepared->inputs = inputs.size();
    prepared->tensors = inputs;
    prepared->tensors.insert(prepared->tensors.end(), outputs.begin(), outputs.end());
    *workspace_size = prepared->workspace_bytes;
    *executor = KeepExecutor(std::move(prepared));
    return 0;
}

}  // namespace sim
