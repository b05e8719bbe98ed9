"""The numerical bar on a kernel of your own, on the simulated NPU: an example to copy from.

PYTHONPATH=tests .venv/bin/python tests/simulator/example/check.py build/example.so
"""

from __future__ import annotations

import ctypes
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mse_grad.tensor import FLOAT32, Array
from mse_grad_cli.conformance import Dout, run_bar
from support.npu.simulator import SCHEDULES, KernelError, Simulator, Tensor, build


def main(library: str) -> int:
    """Prints the bar of the function `gradient` of a library; returns 0 if it passes under every schedule."""
    kernel = ctypes.CDLL(str(Path(library).resolve())).gradient
    simulator = Simulator(build())
    simulator.open()
    passed = True
    try:
        for schedule in SCHEDULES:
            with simulator.settings(chip="Ascend910B4", **schedule):
                report = run_bar(_compute(simulator, kernel), dtypes=[FLOAT32], threads=1, quick=True)
            print(f"{' '.join(schedule.values())}: {'passed' if report.passed else 'FAILED'}, {report.cases} cases")
            for row in report.rows if schedule is SCHEDULES[0] else report.failures:
                print(f"  {row}")
            passed = passed and report.passed
        return 0 if passed else 1
    except KernelError as broken_rule:
        print(broken_rule, *getattr(broken_rule, "__notes__", ()), sep="\n")
        return 1
    finally:
        simulator.close()


def _compute(simulator: Simulator, kernel: Any) -> Any:
    def compute(predict: Array, label: Array, dout: Dout, reduction: str) -> Array:
        if predict.size == 0:
            return np.empty_like(predict)
        if np.size(dout) == 1:  # a number, or one element of rank 0 or 1
            dout = np.full(predict.shape, dout, predict.dtype)
        arrays = {"predict": predict, "label": label, "dout": dout, "y": np.empty(predict.shape, predict.dtype)}
        tensors = [Tensor(name, np.array(array, order="C")) for name, array in arrays.items()]
        c = 2 / predict.size if reduction == "mean" else 2
        tiling = struct.pack("<qf4x", predict.size, c)  # the struct Tiling of the kernel
        simulator.launch(kernel, tensors, tiling=tiling, name="gradient")
        return tensors[-1].array

    return compute


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
