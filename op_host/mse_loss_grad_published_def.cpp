// OpType MseLossGrad, for programs that call the published API. The toolkit has an operator of this name too. A package
// built without ours does not replace it (MSE_LOSS_GRAD_PUBLISHED_API in CMakeLists.txt).
#include "mse_loss_grad_def.h"

namespace ops {

class MseLossGrad : public OpDef {
public:
    explicit MseLossGrad(const char* name) : OpDef(name) {
        Define(this);
        this->AICore().SetTiling(mse_loss_grad::Tiling);
    }
};

OP_ADD(MseLossGrad);

}  // namespace ops
