"""The public names of the SDK: each used in code whose types are checked, each documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
from pathlib import Path
from typing import Any

import pytest

import mse_grad_client
from support.tools import require_module

USES = ast.parse((Path(__file__).parent / "every_public_name.py").read_text(encoding="utf-8"))
CLASSES = [getattr(mse_grad_client, name) for name in mse_grad_client.__all__]


def members(kind: type) -> dict[str, Any]:
    """Returns the public methods and properties that a class defines itself."""
    return {
        name: member
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property))
    }


def test_every_public_name_and_method_is_used_in_code_that_mypy_checks() -> None:
    used = {node.id for node in ast.walk(USES) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(USES) if isinstance(node, ast.Attribute)}
    public = {*mse_grad_client.__all__, "MSELoss", "mse_loss"}
    public |= {*members(mse_grad_client.MseGradClient), *members(mse_grad_client.AsyncMseGradClient)}
    assert public - used == set()


def test_all_names_exactly_what_the_package_imports_for_users() -> None:
    imported = {name for name, value in vars(mse_grad_client).items() if inspect.isclass(value) and name[0] != "_"}
    imported_on_demand = {"AsyncMseGradClient", "ServerInfo"}
    assert imported | imported_on_demand == set(mse_grad_client.__all__)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_help_of_a_class_reads_as_documentation(kind: type) -> None:
    check_documented(kind)


@pytest.mark.slow  # like all tests that need more than `make test` installs
def test_help_of_the_pytorch_loss_reads_as_documentation() -> None:
    require_module("torch")
    module = importlib.import_module("mse_grad_client.pytorch")
    check_documented(module.MSELoss)
    text = pydoc.plain(pydoc.render_doc(module.mse_loss))
    for word in ("Args:", "Returns:", "Raises:", *inspect.signature(module.mse_loss).parameters):
        assert word in text


def check_documented(kind: type) -> None:
    """Asserts that `help` says of a class, its arguments and its members what they are."""
    own = inspect.cleandoc(kind.__doc__ or "")
    assert own.splitlines()[0].endswith((".", ":"))
    assert not own.startswith(f"{kind.__name__}(")  # the signature that a dataclass without a docstring gets
    if not (issubclass(kind, Exception) or getattr(kind, "_is_protocol", False)):
        for argument in inspect.signature(kind).parameters:
            assert f"{argument}:" in own
    text = pydoc.plain(pydoc.render_doc(kind))
    for name, member in members(kind).items():
        documented = inspect.getdoc(member)
        assert documented, f"{kind.__name__}.{name} has no docstring"
        assert documented.splitlines()[0] in text
