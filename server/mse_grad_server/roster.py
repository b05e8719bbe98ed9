"""Who serves on this host."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mse_grad_server.state import State

__all__ = ["Endpoint", "Placement"]


@dataclass(frozen=True)
class Endpoint:
    """One worker, as clients are told.

    Attributes:
        address: Where it alone listens.
        device: "cpu", or an NPU such as "npu:3".
        state: Where in its life it is.
    """

    address: str
    device: str
    state: State

    def as_json(self) -> dict[str, str]:
        """Returns what `of_json` takes."""
        return {"address": self.address, "device": self.device, "state": self.state.value}

    @classmethod
    def of_json(cls, values: dict[str, str]) -> Endpoint:
        """Returns what `as_json` said."""
        return cls(values["address"], values["device"], State(values["state"]))


@dataclass(frozen=True)
class Placement:
    """What a worker is started with.

    Attributes:
        worker: Its name: "npu:3", "cpu:0".
        common_address: The port that it shares with its neighbours, or "".
        settings: What the server was told, with what is for this worker alone.
    """

    worker: str
    common_address: str
    settings: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return asdict(self)
