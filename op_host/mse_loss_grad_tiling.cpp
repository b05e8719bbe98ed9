#include "mse_loss_grad_check.h"
#include "mse_loss_grad_def.h"
#include "mse_loss_grad_dtype.h"
#include "mse_loss_grad_plan.h"
#include "mse_loss_grad_report.h"
#include "tiling/platform/platform_ascendc.h"

namespace mse_loss_grad {
namespace {

// One tensor as the context describes it.
struct Tensor {
    Shape shape;
    ge::DataType dtype;
};

struct Tensors {
    Tensor predict;
    Tensor label;
    Tensor dout;
    Tensor y;
};

bool Read(const gert::StorageShape* shape, const gert::CompileTimeTensorDesc* description, const char* name,
          Tensor* tensor, std::string* reason) {
    if (shape == nullptr || description == nullptr) {
        *reason = std::string(name) + " is missing; predict, label, dout and y must be given";
        return false;
    }
    const gert::Shape& extents = shape->GetStorageShape();
    for (size_t i = 0; i < extents.GetDimNum(); ++i) {
        tensor->shape.push_back(extents.GetDim(i));
    }
    tensor->dtype = description->GetDataType();
    return true;
}

bool ReadTensors(gert::TilingContext* context, Tensors* tensors, std::string* reason) {
    return Read(context->GetInputShape(kPredict), context->GetInputDesc(kPredict), "predict", &tensors->predict,
                reason) &&
           Read(context->GetInputShape(kLabel), context->GetInputDesc(kLabel), "label", &tensors->label, reason) &&
           Read(context->GetInputShape(kDout), context->GetInputDesc(kDout), "dout", &tensors->dout, reason) &&
           Read(context->GetOutputShape(kY), context->GetOutputDesc(kY), "y", &tensors->y, reason);
}

bool CheckTensors(const Tensors& tensors, Problem* problem, std::string* reason) {
    const Tensor& predict = tensors.predict;
    int64_t elements = 0;  // of the others: to a launch an extent that a graph does not know yet is a mistake
    problem->item_bytes = ItemBytes(predict.dtype);
    return CheckDtype(predict.dtype, reason) && CheckSameDtype(predict.dtype, tensors.label.dtype, "label", reason) &&
           CheckSameDtype(predict.dtype, tensors.dout.dtype, "dout", reason) &&
           CheckSameDtype(predict.dtype, tensors.y.dtype, "y", reason) &&
           CountElements(predict.shape, "predict", &problem->elements, reason) &&
           CountElements(tensors.label.shape, "label", &elements, reason) &&
           CountElements(tensors.dout.shape, "dout", &elements, reason) &&
           CountElements(tensors.y.shape, "y", &elements, reason) &&
           CheckSameShape(predict.shape, tensors.label.shape, "label", reason) &&
           CheckDoutShape(predict.shape, tensors.dout.shape, &problem->scalar_dout, reason) &&
           CheckSameShape(predict.shape, tensors.y.shape, "y", reason);
}

bool ReadPlatform(gert::TilingContext* context, Problem* problem, std::string* reason) {
    auto* const information = context->GetPlatformInfo();
    if (information == nullptr) {
        *reason = "the platform is unknown; its cores and its UB decide the tiling";
        return false;
    }
    const platform_ascendc::PlatformAscendC platform(information);
    problem->cores = platform.GetCoreNumAiv();
    platform.GetCoreMemSize(platform_ascendc::CoreMemType::UB, problem->ub_bytes);
    return true;
}

bool ReadAttributes(gert::TilingContext* context, bool part, Problem* problem, std::string* reason) {
    const gert::RuntimeAttrs* attributes = context->GetAttrs();
    if (attributes == nullptr) {
        *reason = "the attributes are missing; reduction must be given or have its default";
        return false;
    }
    problem->numel = problem->elements;
    if (part) {
        const int64_t* numel = attributes->GetInt(kNumelAttribute);
        if (numel == nullptr) {
            *reason = "numel is missing; it must be the element count of the whole tensor";
            return false;
        }
        problem->numel = *numel;
    }
    return ParseReduction(attributes->GetStr(kReductionAttribute), &problem->reduction, reason);
}

bool Launch(gert::TilingContext* context, const Problem& problem, std::string* reason) {
    MseLossGradTilingData* tiling = context->GetTilingData<MseLossGradTilingData>();
    size_t* workspace_bytes = context->GetWorkspaceSizes(1);
    if (tiling == nullptr || workspace_bytes == nullptr) {
        *reason =
            "the toolkit gives no room for the tiling of " + std::to_string(sizeof(MseLossGradTilingData)) + " bytes";
        return false;
    }
    if (!Plan(problem, tiling, reason)) {
        return false;
    }
    workspace_bytes[0] = 0;
    // SetBlockDim is the older name of SetSimdNumBlocks, which CANN 8 has too. The runtime refuses a launch of no
    // block, so without elements one block starts and returns.
    const uint32_t blocks = tiling->blocks == 0 ? 1 : tiling->blocks;
    const uint64_t key = problem.scalar_dout ? MSE_LOSS_GRAD_KEY_SCALAR_DOUT : MSE_LOSS_GRAD_KEY_FULL_DOUT;
    if (context->SetBlockDim(blocks) != ge::GRAPH_SUCCESS || context->SetTilingKey(key) != ge::GRAPH_SUCCESS) {
        *reason = "the toolkit takes neither block count nor tiling key";
        return false;
    }
    return true;
}

ge::graphStatus PlanLaunch(gert::TilingContext* context, bool part) {
    Tensors tensors;
    Problem problem = Problem();
    std::string reason;
    if (!ReadTensors(context, &tensors, &reason) || !CheckTensors(tensors, &problem, &reason) ||
        !ReadAttributes(context, part, &problem, &reason) || !ReadPlatform(context, &problem, &reason) ||
        !Launch(context, problem, &reason)) {
        Report(context->GetNodeName(), reason);
        return ge::GRAPH_FAILED;
    }
    return ge::GRAPH_SUCCESS;
}

}  // namespace

ge::graphStatus Tiling(gert::TilingContext* context) { return PlanLaunch(context, false); }

ge::graphStatus TilingOfPart(gert::TilingContext* context) { return PlanLaunch(context, true); }

}  // namespace mse_loss_grad
