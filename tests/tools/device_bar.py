"""The numerical bar on both operators of a host's package, with the runtime that the dynamic loader finds.

python -m tools.device_bar --package FOLDER [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mse_grad.tensor import Array
from mse_grad_cli.conformance import run_bar
from support.npu.device import DTYPES, Device

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the bar's rows; returns 0 if the operators pass it, else 1."""
    parser = argparse.ArgumentParser(prog="device_bar", description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="folder of libcust_opapi.so")
    parser.add_argument("--quick", action="store_true", help="only a part of the bar, which takes seconds")
    options = parser.parse_args(arguments)
    device = Device(None, options.package)
    device.open()
    try:
        passed = [
            _bar_holds(device, options, "MseLossGradPart", partial(_compute_part, device)),
            _bar_holds(device, options, "MseLossGrad", device.compute),
        ]
        return 0 if all(passed) else 1
    finally:
        device.close()


def _bar_holds(device: Device, options: argparse.Namespace, operator: str, compute: Callable[..., Array]) -> bool:
    report = run_bar(compute, dtypes=DTYPES, threads=1, quick=options.quick)
    print(f"{device.soc_name}, {operator} of {options.package}: {report.cases} cases, {report.elements} elements")
    print(report)
    return report.passed


def _compute_part(device: Device, predict: Array, label: Array, dout: Array | float, reduction: str) -> Array:
    return device.compute_part(predict, label, dout, reduction, numel=predict.size)


if __name__ == "__main__":
    raise SystemExit(main())
