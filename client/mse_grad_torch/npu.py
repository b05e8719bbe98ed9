"""The operator's NPU kernel: one launch of `MseLossGradPart` on torch_npu's current stream.

Not yet run on a device; tested on a simulated runtime with a stand-in for torch_npu.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from mse_grad.tensor import DType, Reduction
from mse_grad_torch.aclnn import Aclnn

__all__ = ["compute"]

# aclFormat of tensors whose elements lie in C order: NCHW, NHWC, ND, NCDHW.
_PLAIN_FORMATS = (0, 1, 2, 30)
_FORMAT_ND = 2


def compute(dtype: DType, reduction: Reduction, predict: Any, label: Any, dout: Any) -> Any:
    """Returns the gradient of checked NPU tensors as a new contiguous tensor, complete in the order of the stream.

    Args:
        dtype: Element type of all of them.
        reduction: How the loss was reduced.
        predict: Any shape and strides.
        label: predict's shape, any strides.
        dout: predict's shape or one element, any strides.

    Raises:
        NotImplementedError: The NPU does not compute this dtype.
        RuntimeError: The operator's library cannot be used, or a call of it failed.
    """
    Aclnn.check_dtype(dtype)
    with torch.npu.device(predict.device):
        predict, label, dout = _plain(predict), _plain(label), _plain(dout)
        y = torch.empty(predict.shape, dtype=predict.dtype, device=predict.device)
        if predict.numel():
            _launch(dtype, reduction, predict, label, dout, y)
        return y


def _launch(dtype: DType, reduction: Reduction, predict: Any, label: Any, dout: Any, y: Any) -> None:
    aclnn = _aclnn()
    tensors = [(tuple(tensor.shape), tensor.data_ptr()) for tensor in (predict, label, dout, y)]
    with aclnn.planned(dtype, reduction, tensors, numel=predict.numel()) as plan:
        # The caching allocator reuses memory in the order of the stream, so the workspace may be freed at once.
        workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=predict.device)
        # Reading `npu_stream` also waits until torch_npu's task queue has queued every earlier operator.
        stream = torch.npu.current_stream(predict.device).npu_stream
        aclnn.launch(plan, workspace=workspace.data_ptr(), stream=stream)


def _plain(tensor: Any) -> Any:
    """Returns the tensor with its elements in C order, out of any private format of the NPU."""
    if torch.npu.get_npu_format(tensor) not in _PLAIN_FORMATS:
        tensor = torch.npu.npu_format_cast(tensor, _FORMAT_ND)
    return tensor.contiguous()


@cache
def _aclnn() -> Aclnn:
    return Aclnn.load()
