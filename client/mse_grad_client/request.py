"""Gradient requests: checked operands, laid out for the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mse_grad.reasons import ContractError
from mse_grad.tensor import Array, Buffer, DType, Reduction, little_endian_bytes
from mse_grad_client.errors import from_contract_error
from mse_grad_client.interceptor import CallInfo
from mse_grad_client.kinds import Restore
from mse_grad_client.operand import out_array, result_array, whole_number
from mse_grad_client.operands import Empty, Operands

if TYPE_CHECKING:
    from mse_grad_client.attempt import Holder, Task

__all__ = ["GradientRequest"]


class GradientRequest:
    """A gradient to compute: operands as little-endian bytes in C order, and memory for the gradient.

    Attributes:
        dtype: Element type of all operands and of the gradient.
        shape: Shape of predict, label and the gradient; of one tensor if there are several.
        tensors: How many tensors of `shape` lie one after another.
        count: Elements of all of them.
        reduction: Reduction of the loss.
        numel: N of the whole tensor if this is a part of it; 0 if it is the whole.
        predict, label: `count` elements each.
        dout: `count` elements, or one if `scalar_dout`.
        dout_shape: Shape of dout, as given.
        scalar_dout: Whether dout is a single element.
        y: `count` elements, writable: the gradient.
        holder: The attempt that last wrote to y. The end of the call clears it, because the attempt refers to this.
        task: The task that waits for the gradient; None if a thread does.
        is_cancelled: Whether another thread cancelled it; None if none may.
        call: Its call, if that has a name, metadata or a trace for the server.
    """

    __slots__ = (
        "_restore",
        "_result",
        "_target",
        "call",
        "count",
        "dout",
        "dout_shape",
        "dtype",
        "holder",
        "is_cancelled",
        "label",
        "numel",
        "predict",
        "reduction",
        "scalar_dout",
        "shape",
        "task",
        "tensors",
        "y",
    )

    def __init__(
        self,
        *,
        dtype: DType,
        shape: tuple[int, ...],
        tensors: int,
        count: int,
        reduction: Reduction,
        numel: int,
        predict: memoryview,
        label: memoryview,
        dout: memoryview,
        dout_shape: tuple[int, ...],
        scalar_dout: bool,
        y: memoryview,
        result: Array,
        target: Array | None,
        restore: Restore | None = None,
        task: Task | None = None,
        is_cancelled: bool | None = None,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.tensors = tensors
        self.count = count
        self.reduction = reduction
        self.numel = numel
        self.predict = predict
        self.label = label
        self.dout = dout
        self.dout_shape = dout_shape
        self.scalar_dout = scalar_dout
        self.y = y
        self._result = result
        self._target = target
        self._restore = restore
        self.holder: Holder | None = None
        self.task = task
        self.is_cancelled = is_cancelled
        self.call: CallInfo | None = None

    @classmethod
    def prepare(
        cls,
        predict: ArrayLike,
        label: ArrayLike,
        dout: ArrayLike,
        reduction: object,
        *,
        out: object,
        numel: object,
    ) -> GradientRequest:
        """Returns the request, without a copy of any operand that is C-contiguous and little-endian already.

        Raises:
            InvalidArgument, Unimplemented: A rule of the operator is broken; names it by reason and field.
        """
        try:
            numel = whole_number(numel)
            return cls.of(Operands.checked(predict, label, dout, reduction, numel=numel), out=out, numel=numel)
        except ContractError as broken:
            raise from_contract_error(broken) from None

    @classmethod
    def of(cls, operands: Operands, *, out: object = None, numel: int = 0) -> GradientRequest:
        """Returns the request for checked operands; see `prepare`."""
        predict_array, label_array, dout_array = operands.predict, operands.label, operands.dout
        dtype = operands.dtype
        target = None if out is None else out_array(out, predict_array)
        result = result_array(target, predict_array, label_array, dout_array, dtype)
        return cls(
            dtype=dtype,
            shape=predict_array.shape,
            tensors=1,
            count=operands.elements,
            reduction=operands.reduction,
            numel=numel,
            predict=little_endian_bytes(predict_array),
            label=little_endian_bytes(label_array),
            dout=little_endian_bytes(dout_array),
            dout_shape=dout_array.shape,
            scalar_dout=operands.scalar_dout,
            y=result.reshape(-1).view(np.uint8).data,
            result=result,
            target=_target_or_swapped(target, predict_array),
            restore=operands.restore if out is None else None,
        )

    @classmethod
    def pack(cls, several: Sequence[Operands], *, empty: Empty = np.empty) -> GradientRequest:
        """Returns one request for `several` operands, with copies of them; its gradient has one more axis.

        Args:
            several: Operands with the same `pack_key`.
            empty: Makes the arrays that hold the copies, as `numpy.empty` does.
        """
        first = several[0]
        # In C order, whatever the order of the operands.
        shape, dtype = (len(several), *first.predict.shape), first.dtype.numpy
        predict, label = empty(shape, dtype), empty(shape, dtype)
        dout = first.dout if first.scalar_dout else empty(shape, dtype)
        # A loop takes two thirds of the time of numpy.stack.
        for number, each in enumerate(several):
            predict[number] = each.predict
            label[number] = each.label
            if not first.scalar_dout:
                dout[number] = each.dout
        result = np.empty(shape, dtype)
        return cls(
            dtype=first.dtype,
            shape=first.predict.shape,
            tensors=len(several),
            count=first.elements * len(several),
            reduction=first.reduction,
            numel=0,
            predict=little_endian_bytes(predict),
            label=little_endian_bytes(label),
            dout=little_endian_bytes(dout),
            dout_shape=dout.shape,
            scalar_dout=first.scalar_dout,
            y=result.reshape(-1).view(np.uint8).data,
            result=result,
            target=None,
        )

    def fill(self, offset: int, elements: Buffer) -> None:
        """Writes little-endian `elements` of the gradient, beginning at element `offset`."""
        start = offset * self.dtype.itemsize_bytes
        self.y[start : start + len(elements)] = elements

    def revoke(self) -> None:
        """Ensures that nothing is written to `y` from now on, wherever the request was interrupted."""
        if self.holder is not None:
            self.holder.revoke()

    def gradient(self) -> Any:
        """Returns the filled gradient: the array of `out`, or a new one with predict's shape, dtype and kind."""
        filled = self._result if self._target is None else self._target
        if filled is not self._result:
            filled[...] = self._result
        return filled if self._restore is None else self._restore(filled)


def _target_or_swapped(target: Array | None, predict: Array) -> Array | None:
    if target is None and predict.dtype.byteorder == ">":
        return np.empty(predict.shape, dtype=predict.dtype)
    return target
