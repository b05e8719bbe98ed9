"""The life of a server, or of a worker among several."""

from __future__ import annotations

from enum import Enum

__all__ = ["State"]


class State(Enum):
    """Where in its life it is."""

    STARTING = "starting"
    """Loads the backend or verifies its first gradients, or waits to be started again; takes no requests."""
    READY = "ready"
    """Takes requests."""
    RECOVERING = "recovering"
    """Repairs its device; requests wait or are refused."""
    DRAINING = "draining"
    """Finishes what it accepted."""
    GONE = "gone"
    """A worker that ended and is not started again."""
