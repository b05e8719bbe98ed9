"""The product's compiled kernel, for servers in environments where the product is not installed.

Source: kernel/cpu/mse_loss_grad_cpu.h. Needs NumPy and nothing else.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from benchmarks.peers.adapters.operands import Array

__all__ = ["COEFFICIENT", "Kernel"]

COEFFICIENT = 2.0  # coefficient of the reduction "sum"

_LIBRARY = Path(__file__).parents[4] / "kernel/mse_grad_kernel/libmse_loss_grad_cpu.so"
_DTYPES = {"float32": 1, "float16": 2}


class Kernel:
    """Computes with the machine code of the product's own server."""

    def __init__(self) -> None:
        """Loads the library; raises OSError if it was not built."""
        library = ctypes.CDLL(str(_LIBRARY))
        library.MseLossGradCpuVariants.restype = ctypes.c_uint32
        library.MseLossGradCpu.argtypes = [
            *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_int32),
            *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
        ]
        # The variant with the highest number is the fastest of those that run on this machine.
        self._variant = library.MseLossGradCpuVariants().bit_length() - 1
        self._function = library.MseLossGradCpu

    def gradient(self, predict: Array, label: Array, dout: Array) -> Array:
        """Returns the gradient in a new array."""
        y = np.empty_like(predict)
        self.gradient_into(y, predict, label, dout)
        return y

    def gradient_into(self, y: Array, predict: Array, label: Array, dout: Array) -> None:
        """Writes the gradient to `y`; the four arrays are contiguous, of one size and dtype."""
        status = self._function(
            self._variant,
            _DTYPES[predict.dtype.name],
            predict.size,
            COEFFICIENT,
            False,
            predict.ctypes.data,
            label.ctypes.data,
            dout.ctypes.data,
            y.ctypes.data,
        )
        if status != 0:
            raise ValueError(f"the kernel refused {predict.dtype.name}: status {status}")
