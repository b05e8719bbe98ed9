"""The numerical bar of docs/numerics.md: cases, golden, and the verdict on any implementation of the gradient.

report = run_bar(client.compute)
assert report.passed, report
"""

from mse_grad_client.bar.case import Case, Compute, Dout, PartCompute, cases, make_case
from mse_grad_client.bar.edge import Edge, edges
from mse_grad_client.bar.expected import Reference, golden, reference, round_once, same_bits, ulp_distance
from mse_grad_client.bar.peer import Comparison, compare
from mse_grad_client.bar.report import BarReport, Line, Row
from mse_grad_client.bar.run import run_bar

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
