"""PyTorch, which only the slow tests install."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from support.tools import require_module


@pytest.fixture(scope="session")
def torch() -> Any:
    require_module("torch")
    return importlib.import_module("torch")


@pytest.fixture(scope="session")
def mse_loss_grad(torch: Any) -> Any:
    """The operator as users call it."""
    importlib.import_module("mse_grad_torch")
    return torch.ops.mse_grad.mse_loss_grad
