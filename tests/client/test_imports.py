"""Imports of the SDK: its dependencies and its own modules, nothing optional."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.imports import DEPENDENCIES
from support.client.scripted_server import ScriptedServer

COUNT = """
import json, sys
print(json.dumps(sorted(name for name in sys.modules if not name.startswith(("mse_grad.", "mse_grad_client")))))
"""
OPTIONAL = {
    *("cupy", "jax", "pandas", "polars", "pyarrow", "torch", "torch_npu"),
    *("click", "matplotlib", "opentelemetry", "rich"),
    *("mse_grad_cli", "mse_grad_kernel", "mse_grad_server", "mse_grad_torch", "prometheus_client", "pydantic"),
}
USE = """
import sys
import numpy as np
import mse_grad_client.pytorch
from mse_grad_client import MseGradClient
with MseGradClient(sys.argv[1]) as client:
    client.compute(np.ones(3, np.float32), [np.float32(0)] * 3, 1.0)
    client.compute([1.0], [2.0], 1.0)
    client.compute_many([(np.ones(3), np.ones(3), 1.0)] * 2)
"""


def modules_after(program: str, *arguments: str) -> set[str]:
    """Returns the modules that a new process has imported at the end of `program`."""
    command = [sys.executable, "-c", program + COUNT, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout))


def test_the_sdk_imports_few_modules_beyond_its_dependencies() -> None:
    dependencies = modules_after(DEPENDENCIES)
    with_sdk = modules_after("import mse_grad_client")
    assert len(with_sdk) <= 1.2 * len(dependencies), sorted(with_sdk - dependencies)


def test_the_client_with_await_is_imported_when_it_is_first_used() -> None:
    loaded = "import json, sys; print(json.dumps('mse_grad_client.aio' in sys.modules))"
    for program, is_loaded in (
        ("import mse_grad_client", False),
        ("import mse_grad_client; mse_grad_client.AsyncMseGradClient", True),
        ("from mse_grad_client import *; AsyncMseGradClient", True),
    ):
        ended = subprocess.run(
            [sys.executable, "-c", f"{program}\n{loaded}"], capture_output=True, text=True, timeout=60
        )
        assert json.loads(ended.stdout) is is_loaded, ended.stderr


def test_importing_and_using_the_sdk_imports_nothing_optional() -> None:
    with ScriptedServer() as server:
        imported = modules_after(USE, server.address)
    assert {name.partition(".")[0] for name in imported} & OPTIONAL == set()


@pytest.mark.parametrize("name", ["MSELoss", "mse_loss"])
def test_the_loss_names_what_it_needs_if_pytorch_is_not_installed(name: str) -> None:
    program = "import sys; sys.modules['torch'] = None\nimport mse_grad_client.pytorch as module\n"
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}module.{name}"], capture_output=True, text=True, timeout=60
    )
    assert "ModuleNotFoundError: import of torch halted" in ended.stderr


def test_another_name_is_an_attribute_error() -> None:
    import mse_grad_client.pytorch as module

    with pytest.raises(AttributeError, match=r"'mse_grad_client\.pytorch' has no attribute 'l1_loss'"):
        module.l1_loss  # noqa: B018
