"""Runs the numerical bar on the operator package of a host, with the runtime that the dynamic loader finds there.

python -m support.device_bar --package FOLDER [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mse_grad_client.bar import run_bar
from support.device import DTYPES, Device

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the bar's rows; returns 0 where it holds, else 1."""
    parser = argparse.ArgumentParser(prog="device_bar", description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="folder of libcust_opapi.so")
    parser.add_argument("--quick", action="store_true", help="a part of the bar in seconds")
    options = parser.parse_args(arguments)
    device = Device(None, options.package)
    device.open()
    try:
        report = run_bar(device.compute, dtypes=DTYPES, threads=1, quick=options.quick)
        print(f"{device.soc_name}, {options.package}: {report.cases} cases, {report.elements} elements")
        print(report)
        return 0 if report.passed else 1
    finally:
        device.close()


if __name__ == "__main__":
    raise SystemExit(main())
