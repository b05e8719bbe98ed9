#include "mse_loss_grad_check.h"
#include "mse_loss_grad_def.h"
#include "mse_loss_grad_dtype.h"
#include "mse_loss_grad_report.h"

namespace mse_loss_grad {
namespace {

Shape Extents(const gert::Shape& shape) {
    Shape extents;
    for (size_t i = 0; i < shape.GetDimNum(); ++i) {
        extents.push_back(shape.GetDim(i));
    }
    return extents;
}

bool CheckShapes(const Shape& predict, const Shape& label, const Shape& dout, std::string* reason) {
    bool scalar_dout = false;
    return CheckRank(predict, "predict", reason) && CheckSameShape(predict, label, "label", reason) &&
           CheckDoutShape(predict, dout, &scalar_dout, reason);
}

}  // namespace

ge::graphStatus InferShape(gert::InferShapeContext* context) {
    const gert::Shape* predict = context->GetInputShape(kPredict);
    const gert::Shape* label = context->GetInputShape(kLabel);
    const gert::Shape* dout = context->GetInputShape(kDout);
    gert::Shape* y = context->GetOutputShape(kY);
    if (predict == nullptr || label == nullptr || dout == nullptr || y == nullptr) {
        Report(context->GetNodeName(), "a tensor has no shape; predict, label, dout and y must each have one");
        return ge::GRAPH_FAILED;
    }
    std::string reason;
    if (!CheckShapes(Extents(*predict), Extents(*label), Extents(*dout), &reason)) {
        Report(context->GetNodeName(), reason);
        return ge::GRAPH_FAILED;
    }
    *y = *predict;
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext* context) {
    const ge::DataType predict = context->GetInputDataType(kPredict);
    std::string reason;
    if (!CheckDtype(predict, &reason) ||
        !CheckSameDtype(predict, context->GetInputDataType(kLabel), "label", &reason) ||
        !CheckSameDtype(predict, context->GetInputDataType(kDout), "dout", &reason)) {
        Report(context->GetNodeName(), reason);
        return ge::GRAPH_FAILED;
    }
    return context->SetOutputDataType(kY, predict);
}

}  // namespace mse_loss_grad
