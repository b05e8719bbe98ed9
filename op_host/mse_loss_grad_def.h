// The operator's parameters in the order of its definition, and the functions that the definition registers.
#ifndef OP_HOST_MSE_LOSS_GRAD_DEF_H_
#define OP_HOST_MSE_LOSS_GRAD_DEF_H_

#include <cstddef>

#include "register/op_def_registry.h"

namespace mse_loss_grad {

constexpr size_t kPredict = 0;
constexpr size_t kLabel = 1;
constexpr size_t kDout = 2;
constexpr size_t kY = 0;
constexpr size_t kReductionAttribute = 0;
constexpr size_t kNumelAttribute = 1;  // MseLossGradPart only

// Gives y the shape of predict; fails if the shapes of predict, label and dout do not fit together.
ge::graphStatus InferShape(gert::InferShapeContext* context);

// Gives y the dtype of predict; fails unless the three inputs share one of the operator's dtypes.
ge::graphStatus InferDataType(gert::InferDataTypeContext* context);

// Plan a launch. They fail on dtypes, ranks, shapes, reductions and numels that the operator does not compute. They
// check all of it, because without a graph nothing was inferred before.
ge::graphStatus Tiling(gert::TilingContext* context);
ge::graphStatus TilingOfPart(gert::TilingContext* context);

}  // namespace mse_loss_grad

namespace ops {

// Defines everything that both operators share: the tensors, the attribute `reduction`, inference and the products.
void Define(OpDef* op);

}  // namespace ops

#endif  // OP_HOST_MSE_LOSS_GRAD_DEF_H_
