from __future__ import annotations

import pytest

from mse_grad_client.routing import discovery
from support.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def patient_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes no server for silent because a busy machine delays its answer: it would lose its share of the requests."""
    monkeypatch.setattr(discovery, "_ASK_TIMEOUT_S", PATIENCE_S)
