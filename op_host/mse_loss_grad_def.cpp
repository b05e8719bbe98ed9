#include "mse_loss_grad_def.h"

// The toolkit's code generator requires the classes of operators in this namespace.
namespace ops {

void Define(OpDef* op) {
    for (const char* input : {"predict", "label", "dout"}) {
        op->Input(input)
            .ParamType(REQUIRED)
            .DataType({ge::DT_FLOAT, ge::DT_FLOAT16, ge::DT_BF16})
            .Format({ge::FORMAT_ND, ge::FORMAT_ND, ge::FORMAT_ND});
    }
    op->Output("y")
        .ParamType(REQUIRED)
        .DataType({ge::DT_FLOAT, ge::DT_FLOAT16, ge::DT_BF16})
        .Format({ge::FORMAT_ND, ge::FORMAT_ND, ge::FORMAT_ND});
    op->Attr("reduction").AttrType(OPTIONAL).String("mean");
    op->SetInferShape(mse_loss_grad::InferShape).SetInferDataType(mse_loss_grad::InferDataType);
    op->AICore().AddConfig("ascend910b").AddConfig("ascend910_93").AddConfig("ascend310b");
}

// For a part of a larger tensor, or for several tensors in one: `numel` is the N of the coefficient for mean.
class MseLossGradPart : public OpDef {
public:
    explicit MseLossGradPart(const char* name) : OpDef(name) {
        Define(this);
        this->Attr("numel").AttrType(REQUIRED).Int();
        this->AICore().SetTiling(mse_loss_grad::TilingOfPart);
    }
};

OP_ADD(MseLossGradPart);

}  // namespace ops
