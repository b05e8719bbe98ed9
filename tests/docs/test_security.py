"""SECURITY.md: the tests that it names exist, and the product has no loader of objects."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Attacks on servers like this one")[2]
ATTACKS = [row.split(" | ") for row in TABLE.splitlines() if row.startswith("| ") and "::" in row]
ROOMS = ("proto", "client", "server", "kernel", "deploy")
# Modules that build objects, or run code, from bytes; and functions that do.
LOADERS = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
CALLS = frozenset({"eval", "exec"})


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_attack_of_the_page_is_read() -> None:
    assert len(ATTACKS) == 11


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row[0].removeprefix("| "))
def test_the_tests_of_each_attack_exist(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert len(named) == row[2].count("::") >= 2
    assert [name for path, name in named if name not in functions_of(ROOT / path)] == []


def loaders_in(text: str) -> set[str]:
    """Returns the loaders of objects that a module imports or calls."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.add(node.func.id)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.add("allow_pickle")
    return found & {*LOADERS, *CALLS, "allow_pickle"}


def test_no_module_of_the_product_makes_objects_of_bytes() -> None:
    modules = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert len(modules) > 200
    found = {str(path.relative_to(ROOT)): loaders_in(path.read_text(encoding="utf-8")) for path in modules}
    assert {path: loaders for path, loaders in found.items() if loaders} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from marshal import loads", "eval(x)", "np.load(x, allow_pickle=True)"],
)
def test_a_module_that_does_is_found(text: str) -> None:
    assert loaders_in(text)
