"""One call of an operator package in its own process: two packages of one operator cannot share a process.

`probe` starts this file, which prints the result of the call as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import FLOAT16, Array, Reduction, dtype_of
from support.npu.simulator import DTYPES, ROOT, AclError, Simulator

__all__ = ["Call", "Outcome", "probe", "probe_elements"]


@dataclass(frozen=True)
class Call:
    """A call of MseLossGrad, or with `numel` of MseLossGradPart, on normally distributed numbers.

    Attributes:
        shape: Of predict.
        dtype: Name of the dtype.
        label_shape: None for that of predict.
        scalar_dout: Whether dout has one element.
        reduction: Any text.
        numel: Elements of the whole tensor; 0 for MseLossGrad.
        chip: Name of the chip.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    label_shape: tuple[int, ...] | None = None
    scalar_dout: bool = False
    reduction: str = "mean"
    numel: int = 0
    chip: str = "Ascend910B3"


@dataclass(frozen=True)
class Outcome:
    """The result of a call.

    Attributes:
        exit_code: Exit code of the process; negative for a signal.
        error: Name of the C function that failed, its code and text; None for none.
        unequal: Elements that differ from the formula.
        launch: The simulator's counters; None if the process ended early.
        stderr: The process's output on stderr.
    """

    exit_code: int
    error: tuple[str, int, str] | None = None
    unequal: int = 0
    launch: dict[str, Any] | None = None
    stderr: str = ""


def probe(libraries: Path, package: Path, call: Call) -> Outcome:
    """Makes the call with the libcust_opapi.so of the folder `package`."""
    run = _run(libraries, package, "call", asdict(call))
    if run.returncode != 0:
        return Outcome(run.returncode, stderr=run.stderr)
    answer = json.loads(run.stdout)
    error = answer["error"]
    return Outcome(0, None if error is None else tuple(error), answer["unequal"], answer["launch"])


def probe_elements(libraries: Path, package: Path, shape: tuple[int, ...]) -> int:
    """Returns the number of elements that the plan of a package counts in a float16 tensor; needs no memory."""
    run = _run(libraries, package, "elements", shape)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def _run(libraries: Path, package: Path, task: str, argument: Any) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("tests", "proto", "client", "server"))
    return subprocess.run(
        [sys.executable, __file__, str(libraries), str(package), task, json.dumps(argument)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def _main(libraries: str, package: str, task: str, argument: str) -> None:
    device = Simulator(Path(libraries), package=Path(package))
    device.open()
    if task == "elements":
        _, tiling = device.plan(json.loads(argument), FLOAT16, tiling_bytes=8)
        print(int.from_bytes(tiling, "little"))
    else:
        _call(device, Call(**json.loads(argument)))
    device.close()


def _call(device: Simulator, call: Call) -> None:
    dtype = next(dtype for dtype in DTYPES if dtype.name == call.dtype)
    rng = np.random.default_rng(11)

    def draw(shape: tuple[int, ...]) -> Array:
        return np.asarray(rng.standard_normal(shape)).astype(dtype.numpy)

    predict, label = draw(tuple(call.shape)), draw(tuple(call.label_shape or call.shape))
    dout = draw(() if call.scalar_dout else tuple(call.shape))
    device.set("chip", call.chip)
    error, unequal = None, 0
    try:
        if call.numel:
            y = device.compute_part(predict, label, dout, call.reduction, numel=call.numel)
        else:
            y = device.compute(predict, label, dout, call.reduction)
        unequal = _unequal(y, predict, label, dout, call)
    except AclError as failure:
        error = (failure.call, failure.code, failure.message)
    print(json.dumps({"error": error, "unequal": unequal, "launch": device.last_launch()}))


def _unequal(y: Array, predict: Array, label: Array, dout: Array, call: Call) -> int:
    if predict.size == 0:
        return 0
    dtype = dtype_of(predict.dtype, field="predict")
    c = coefficient(Reduction.parse(call.reduction), call.numel or predict.size, dtype)
    expected = np.empty(predict.size, dtype.numpy)
    gradient_into(expected, predict.reshape(-1), label.reshape(-1), dout.reshape(-1), c=c, dtype=dtype)
    unsigned = f"u{dtype.itemsize_bytes}"
    return int(np.count_nonzero(y.reshape(-1).view(unsigned) != expected.view(unsigned)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
