"""Collections that one thread walks through while another changes them.

Python 3.11 collects garbage in the middle of some calls that are otherwise atomic, and other threads run meanwhile:
`tuple(queue)` and `list(table.items())` then raise RuntimeError; `list(queue)` and `table.copy()` do not.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mse_grad_client.interrupts import Latch
from mse_grad_client.stream.outbox import Outbox
from mse_grad_server.metrics.callers import Callers, CallerTotals
from mse_grad_server.metrics.requests import Requests
from support.garbage import during_collections

PACKAGES = ("mse_grad", "mse_grad_cli", "mse_grad_client", "mse_grad_server")
AROUND = {"tuple", "list", "sorted"}
# No other thread changes these.
UNSHARED = {
    "mse_grad_client/options.py": {"tuple(self.__dict__.values())"},
    "mse_grad_client/shared_memory/allocator.py": {"tuple(self._segments)"},  # under a lock
}


class Waiter:
    def release(self) -> None:
        return


def outbox() -> tuple[Callable[[], Any], Callable[[], Any]]:
    box = Outbox()
    for number in range(1, 50):
        box.add_cancellation(number)
    return lambda: box.remove(100), lambda: box.add_cancellation(1)


def latch() -> tuple[Callable[[], Any], Callable[[], Any]]:
    event = Latch()
    for _ in range(50):
        event.tell(Waiter())
    return event.set, lambda: event.tell(Waiter())


def requests() -> tuple[Callable[[], Any], Callable[[], Any]]:
    ended = Requests()

    def count() -> None:
        ended._counts["ComputeGradient", str(len(ended._counts)), "mean", "OK"] = 1

    for _ in range(50):
        count()
    return lambda: (list(ended.collect()), ended.totals()), count


def callers() -> tuple[Callable[[], Any], Callable[[], Any]]:
    all_callers = Callers()

    def add() -> None:
        all_callers._totals[str(len(all_callers._totals))] = CallerTotals()

    for _ in range(50):
        add()
    return lambda: list(all_callers.collect()), add


@pytest.mark.parametrize("case", [outbox, latch, requests, callers])
def test_a_collection_may_change_while_a_thread_walks_through_it(
    case: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]],
) -> None:
    walk, change = case()
    changes = 0

    def count_change() -> None:
        nonlocal changes
        changes += 1
        change()

    # Python keeps 2000 pairs that were freed, and does not collect when it gives them out again.
    used_up = [(number, number) for number in range(3000)]
    with during_collections(count_change):
        while changes < 50:
            walk()
            _ = [[] for _ in range(10)]  # Python 3.12 and newer collect between two instructions only
    assert used_up


def is_private(walked: ast.expr) -> bool:
    if isinstance(walked, ast.Call) and isinstance(walked.func, ast.Attribute):
        return walked.func.attr in ("keys", "values", "items") and is_private(walked.func.value)
    return isinstance(walked, ast.Attribute) and walked.attr.startswith("_")


def is_interruptible(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1):
        return False
    walked = node.args[0]
    makes_pairs = isinstance(walked, ast.Call) and ast.unparse(walked).endswith(".items()")
    return node.func.id in AROUND and is_private(walked) and (makes_pairs or node.func.id == "tuple")


def interruptible(source: str) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(ast.parse(source)) if is_interruptible(node)}


def test_no_object_walks_through_what_it_holds_in_a_way_that_a_collection_interrupts() -> None:
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent
        for path in folder.rglob("*.py"):
            if calls := interruptible(path.read_text()):
                found[path.relative_to(folder.parent).as_posix()] = calls
    assert found == UNSHARED


def test_calls_that_a_collection_interrupts_are_found() -> None:
    source = "tuple(self._a), tuple(a._b.values()), list(self._a.items()), list(self._a), tuple(self.a)"
    assert interruptible(source) == {"tuple(self._a)", "tuple(a._b.values())", "list(self._a.items())"}
