// Entry of OpType MseLossGradPart: the same kernel. The host computes its coefficient from the attribute `numel`.
#include "mse_loss_grad.h"

extern "C" __global__ __aicore__ void mse_loss_grad_part(GM_ADDR predict, GM_ADDR label, GM_ADDR dout, GM_ADDR y,
                                                         GM_ADDR workspace, GM_ADDR tiling) {
    (void)workspace;  // none is asked for
    MSE_LOSS_GRAD_ON_VECTOR_CORES();
    REGISTER_TILING_DEFAULT(MseLossGradTilingData);
    GET_TILING_DATA(tiling_data, tiling);
    if (TILING_KEY_IS(MSE_LOSS_GRAD_KEY_FULL_DOUT)) {
        RunMseLossGrad<DTYPE_PREDICT, false>(predict, label, dout, y, tiling_data);
    } else if (TILING_KEY_IS(MSE_LOSS_GRAD_KEY_SCALAR_DOUT)) {
        RunMseLossGrad<DTYPE_PREDICT, true>(predict, label, dout, y, tiling_data);
    }
}
