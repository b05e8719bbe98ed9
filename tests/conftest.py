"""Settings of every test, and the tests that run on one Python only."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadlines, for one example or for making examples: two shared cores say nothing about either. Under CI the examples
# are the same in every run.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Shells let commands in the background ignore SIGINT, and their children with them. Tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup lets them ignore SIGHUP, which a server takes for an order to stay.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TESTS = Path(__file__).parent

# The marker `one_python` for whole folders and files: they show on every Python what they show on one. C++, documents,
# tools of operators, and servers as processes, whose parts are tested on every Python.
ONE_PYTHON = (
    "benchmarks",
    "cli/conformance",
    "deploy",
    "docs",
    "e2e",
    "fuzz/cpp",
    "kernel",
    "op_host",
    "proto/test_dtype_places.py",
    "release",
    "server/doctor/test_npu.py",
)
# Less these, whose subject is the interpreter: signals, references and forks, its buffers, its packages.
EVERY_PYTHON = (
    "cli/conformance/test_render.py",
    "e2e/test_async.py",
    "e2e/test_garbage.py",
    "e2e/test_interrupts.py",
    "e2e/test_serving.py",
    "e2e/test_shared_memory.py",
    "e2e/test_supervisor.py",
    "e2e/test_without_metadata.py",
    "kernel/test_environment.py",
    "kernel/test_native.py",
)
# A test that uses one of these fixtures runs on the simulated NPU.
NPU_FIXTURES = frozenset({"built_runtime"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of `ONE_PYTHON`, and those on the simulated NPU."""
    gone = [name for name in (*ONE_PYTHON, *EVERY_PYTHON) if not (TESTS / name).exists()]
    if gone:
        raise pytest.UsageError(f"tests/conftest.py names paths that do not exist: {', '.join(gone)}")
    for item in items:
        if _is_one_python(item):
            item.add_marker(pytest.mark.one_python)


def _is_one_python(item: pytest.Item) -> bool:
    if not NPU_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    return _is_below(item.path, ONE_PYTHON) and not _is_below(item.path, EVERY_PYTHON)


def _is_below(path: Path, names: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(TESTS / name) for name in names)
