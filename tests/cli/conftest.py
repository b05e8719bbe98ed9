"""Surroundings of the command that its user may have set, and a test must not see."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MSE_GRAD_ADDR", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
