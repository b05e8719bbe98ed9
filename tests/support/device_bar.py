"""Runs the numerical bar on the operator package of a host: on a device, or wherever the libraries are.

python -m support.device_bar --package FOLDER [--libraries FOLDER] [--full]
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
    parser.add_argument(
        "--libraries", type=Path, help="folder of libascendcl.so and libnnopbase.so; else where the loader finds them"
    )
    parser.add_argument("--full", action="store_true", help="the whole bar in place of the quick one")
    options = parser.parse_args(arguments)
    device = Device(options.libraries, options.package)
    device.open()
    try:
        report = run_bar(device.compute, dtypes=DTYPES, threads=1, quick=not options.full)
        print(f"{device.soc_name}, {options.package}: {report.cases} cases, {report.elements} elements")
        print(report)
        return 0 if report.passed else 1
    finally:
        device.close()


if __name__ == "__main__":
    raise SystemExit(main())
