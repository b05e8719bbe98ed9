"""The operator `torch.ops.mse_grad.mse_loss_grad`, in the caller's own process, without a server.

Importing this package registers the operator with PyTorch. It may import `mse_grad_kernel` and `mse_grad`, never the
SDK or the server.

    import mse_grad_torch

    y = torch.ops.mse_grad.mse_loss_grad(predict, label, dout, "mean")

Tensors on the CPU go through the native CPU kernel. Tensors on an NPU go through the compiled operator
`MseLossGradPart` on torch_npu's current stream; that path has run on a simulated runtime only, not on a device.
"""

from mse_grad_torch import operator
from mse_grad_torch.operator import mse_loss_grad

__all__ = ["mse_loss_grad"]

operator.register()
