"""What the SDK uses of PyTorch with torch_npu, on NumPy: memory of two kinds, copies that happen when waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mse_grad.tensor import DTYPES, Array

__all__ = ["FakeTorch"]


@dataclass(frozen=True)
class FakeDevice:
    """A place of memory."""

    type: str
    index: int = 0

    def __str__(self) -> str:
        return self.type if self.type == "cpu" else f"{self.type}:{self.index}"


class FakeTensor:
    """A dense tensor; `numpy` refuses what is not in memory of the host."""

    layout = "torch.strided"

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
    """The module `torch` once torch_npu is imported.

    Attributes:
        copies: Where each copy came from, whether from pinned memory, and the same for where it went.
        queued: Copies that nobody has waited for.
    """

    Tensor = FakeTensor
    int16 = np.dtype(np.int16)

    def __init__(self) -> None:
        self.copies: list[tuple[str, bool, str, bool]] = []
        self.queued: list[Callable[[], None]] = []
        self.npu = self

    def empty(
        self, shape: Any, *, dtype: str, device: FakeDevice | None = None, pin_memory: bool = False
    ) -> FakeTensor:
        numpy = next(each.numpy for each in DTYPES if f"torch.{each.name}" == dtype)
        values = np.full(shape, 7, numpy)  # stale
        return FakeTensor(self, values, device or FakeDevice("cpu"), is_pinned=pin_memory)

    def tensor(self, values: Array, device: str = "npu", index: int = 0) -> FakeTensor:
        """Returns a tensor with a copy of `values`."""
        return FakeTensor(self, values.copy(), FakeDevice(device, index))

    def current_stream(self, device: FakeDevice) -> FakeTorch:
        assert device.type == "npu"
        return self

    def synchronize(self) -> None:
        queued, self.queued = self.queued, []
        for copy in queued:
            copy()
