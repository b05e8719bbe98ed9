"""Conformance checks of docs/numerics.md (the bar): cases, golden results, and a verdict on any implementation.

May import only the contract, so that kernels are checked without a server.

report = run_bar(client.compute)
assert report.passed, report
"""

from mse_grad_cli.conformance.case import Case, Compute, Dout, PartCompute, cases, make_case
from mse_grad_cli.conformance.edge import Edge, edges
from mse_grad_cli.conformance.expected import Reference, golden, reference, round_once, same_bits, ulp_distance
from mse_grad_cli.conformance.peer import Comparison, compare
from mse_grad_cli.conformance.report import BarReport, Line, Row
from mse_grad_cli.conformance.run import run_bar

__all__ = [
    "BarReport",
    "Case",
    "Comparison",
    "Compute",
    "Dout",
    "Edge",
    "Line",
    "PartCompute",
    "Reference",
    "Row",
    "cases",
    "compare",
    "edges",
    "golden",
    "make_case",
    "reference",
    "round_once",
    "run_bar",
    "same_bits",
    "ulp_distance",
]
