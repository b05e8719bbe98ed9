"""Report on the real kernel on the simulator: counters, cost estimate with its sources, the numerical bar.

python -m tools.simulator_report [--chip Ascend910B3] [--elements 16777216] [--full]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from mse_grad.tensor import Array, DType
from mse_grad_cli.conformance import run_bar
from support.npu.simulator import CHIPS, DTYPES, SCHEDULES, Simulator, build

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report; returns 0 if the kernel passes the bar on every chip under every schedule, else 1."""
    parser = argparse.ArgumentParser(prog="simulator_report", description=__doc__)
    parser.add_argument("--chip", default="Ascend910B3", help="chip for counters and estimate")
    parser.add_argument("--elements", type=int, default=2**24, help="elements for counters and estimate")
    parser.add_argument("--full", action="store_true", help="the whole bar instead of the quick one")
    options = parser.parse_args(arguments)
    simulator = Simulator(build())
    simulator.open()
    try:
        with simulator.settings(chip=options.chip):
            for dtype in DTYPES:
                for scalar_dout in (False, True):
                    _print_launch(simulator, dtype, options.elements, scalar_dout=scalar_dout)
            _print_constants(simulator.last_launch()["cost"])
        return 0 if _bars_hold(simulator, quick=not options.full) else 1
    finally:
        simulator.close()


def _print_launch(simulator: Simulator, dtype: DType, elements: int, *, scalar_dout: bool) -> None:
    rng = np.random.default_rng(0)
    tensor: Array = rng.standard_normal(elements, np.float32).astype(dtype.numpy)
    simulator.compute(tensor, tensor[::-1], tensor[0] if scalar_dout else tensor, "mean")
    launch = simulator.last_launch()
    total, cost = launch["total"], launch["cost"]
    print(
        f"{launch['kernel']} on {launch['chip']}: {elements} x {dtype.name}, {'scalar' if scalar_dout else 'full'} dout"
    )
    print(f"  cores {len(launch['blocks'])}, tiles {total['tiles']}, UB {total['ub_bytes']} bytes a core")
    for name, direction in (("copy_in", "in"), ("copy_out", "out")):
        print(f"  copies {direction:3} {_copies(total[name])}")
    for name, count in total["vector"].items():
        print(f"  vector     {name}: {count['elements']} elements in {count['calls']} calls")
    print(f"  vector     {total['vector_repeats']} iterations of 256 bytes in all")
    shares = [block["copy_out"]["bytes"] for block in launch["blocks"]]
    print(f"  a core     writes {min(shares)} to {max(shares)} bytes")
    print(f"  copies that begin off a line of 512 bytes: {total['unaligned_copies']}")
    print(f"  estimate   {cost['total_us']:.1f} us, bound by {cost['bound']}: launch {cost['launch_us']:.1f}, then the")
    print(f"             longer of global memory {cost['global_memory_us']:.1f} and a core {cost['block_us']:.1f}")
    pipes = ("copies_in", "vector", "copies_out")
    busy = ", ".join(f"{pipe.replace('_', ' ')} {cost[f'{pipe}_us']:.1f}" for pipe in pipes)
    print(f"  its pipes  {busy} us; they overlap")


def _copies(counters: dict[str, Any]) -> str:
    return (
        f"{counters['bytes']} bytes in {counters['calls']} calls of "
        f"{counters['smallest_bytes']} to {counters['largest_bytes']} bytes"
    )


def _print_constants(cost: dict[str, Any]) -> None:
    print("This is an estimate: no device was measured. It is based on")
    for constant in cost["constants"]:
        print(f"  {constant['name']}: {constant['value']:g} {constant['unit']} ({constant['source']})")


def _bars_hold(simulator: Simulator, *, quick: bool) -> bool:
    hold = True
    for chip in CHIPS:
        for schedule in SCHEDULES:
            with simulator.settings(chip=chip, threads="2", **schedule):
                report = run_bar(simulator.compute, dtypes=DTYPES, threads=1, quick=quick)
            print(f"bar on {chip}, {' '.join(schedule.values())}: {'passed' if report.passed else 'FAILED'},", end=" ")
            print(f"{report.cases} cases, {report.elements} elements")
            shown = report.rows if chip == CHIPS[0] and schedule == SCHEDULES[0] else report.failures
            for row in shown:
                print(f"  {row}")
            hold = hold and report.passed
    return hold


if __name__ == "__main__":
    raise SystemExit(main())
