"""State of a server, or of one worker among several."""

from __future__ import annotations

from enum import Enum

__all__ = ["State"]


class State(Enum):
    """Life cycle of a server or worker."""

    STARTING = "starting"
    """Opens the backend, verifies its first gradients or waits for a restart; accepts no requests."""
    READY = "ready"
    """Accepts requests."""
    RECOVERING = "recovering"
    """Repairs its device; requests wait or are refused."""
    DRAINING = "draining"
    """Finishes the accepted requests and accepts no others."""
    GONE = "gone"
    """The worker has ended and will not be restarted."""
