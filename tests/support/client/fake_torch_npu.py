"""Fake of PyTorch with torch_npu, as far as the SDK uses it: two kinds of memory, and copies that end at a wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mse_grad.tensor import DTYPES, Array

__all__ = ["FakeTorch"]


@dataclass(frozen=True)
class FakeDevice:
    """A kind of memory."""

    type: str
    index: int = 0

    def __str__(self) -> str:
        return self.type if self.type == "cpu" else f"{self.type}:{self.index}"


class FakeTensor:
    """A dense tensor; `numpy` refuses memory outside the host."""

    layout = "torch.strided"
    is_nested = False
    requires_grad = False

    def __init__(self, torch: FakeTorch, values: Array, device: FakeDevice, *, is_pinned: bool = False) -> None:
        self._torch = torch
        self.values = values
        self.device = device
        self.is_pinned = is_pinned

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> str:
        return f"torch.{self.values.dtype.name}"

    def data_ptr(self) -> int:
        return self.values.ctypes.data

    def detach(self) -> FakeTensor:
        return self

    def resolve_neg(self) -> FakeTensor:
        return self

    def is_neg(self) -> bool:
        return False

    def is_inference(self) -> bool:
        return False

    def _is_zerotensor(self) -> bool:
        return False

    def stride(self) -> tuple[int, ...]:
        return tuple(stride // self.values.itemsize for stride in self.values.strides)

    def as_strided(self, shape: tuple[int, ...], _: tuple[int, ...]) -> FakeTensor:
        assert shape == (0,)
        return FakeTensor(self._torch, self.values.reshape(-1)[:0], self.device)

    def zero_(self) -> FakeTensor:
        self.values[...] = 0
        return self

    def view(self, dtype: Any) -> FakeTensor:
        return FakeTensor(self._torch, self.values.view(dtype), self.device, is_pinned=self.is_pinned)

    def numpy(self) -> Array:
        assert self.device.type == "cpu", "an NPU's memory is not the host's"
        assert self.values.dtype.name != "bfloat16", "NumPy knows no bfloat16"
        return self.values

    def copy_(self, source: FakeTensor, *, non_blocking: bool = False) -> FakeTensor:
        def copy() -> None:
            np.copyto(self.values, source.values, casting="no")

        self._torch.copies.append((source.device.type, source.is_pinned, self.device.type, self.is_pinned))
        if non_blocking:
            self._torch.queued.append(copy)
        else:
            self._torch.synchronize()
            copy()
        return self


class FakeTorch:
    """The module `torch` after torch_npu is imported.

    Attributes:
        copies: For each copy, its source and destination, each with its device and whether its memory is pinned.
        queued: Copies that no wait has completed.
    """

    Tensor = FakeTensor
    int16 = np.dtype(np.int16)

    def __init__(self) -> None:
        self.copies: list[tuple[str, bool, str, bool]] = []
        self.queued: list[Callable[[], None]] = []
        self.npu = self.jit = self

    def empty(self, shape: Any, *, dtype: str, device: FakeDevice | str, pin_memory: bool = False) -> FakeTensor:
        numpy = next(each.numpy for each in DTYPES if f"torch.{each.name}" == dtype)
        values = np.full(shape, 7, numpy)  # the memory holds stale values
        return FakeTensor(self, values, FakeDevice(device) if isinstance(device, str) else device, is_pinned=pin_memory)

    def tensor(self, values: Array, device: str = "npu", index: int = 0) -> FakeTensor:
        """Returns a tensor with a copy of `values`."""
        return FakeTensor(self, values.copy(), FakeDevice(device, index))

    def is_tracing(self) -> bool:
        return False

    def _is_functional_tensor(self, _: FakeTensor) -> bool:
        return False

    def is_grad_enabled(self) -> bool:
        return True

    def current_stream(self, device: FakeDevice) -> FakeTorch:
        assert device.type == "npu"
        return self

    def synchronize(self) -> None:
        queued, self.queued = self.queued, []
        for copy in queued:
            copy()
