"""Observer of a device: the events that the backend reports, for metrics, log and health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mse_grad_server.backends.ascend.acl.error_codes import AclError, WrongGradient
from mse_grad_server.backends.ascend.recovery.ladder import Rung
from mse_grad_server.process.exits import StartError

__all__ = ["Observer"]


class Observer(Protocol):
    """Receives the events of one device. Its methods return at once and are thread-safe."""

    def opened(self, facts: Mapping[str, str]) -> None:
        """The device is open; `facts` describe it: op_library, soc, cann_version and more."""

    def started(self, step: str, seconds: float) -> None:
        """A step of opening the device ended after `seconds`: "libraries", "device" or "self_check"."""

    def holds(self, *, device_bytes: int, pinned_bytes: int) -> None:
        """From now on the backend holds this much device memory, workspaces included, and pinned memory."""

    def memory_measured(self, *, free_bytes: int, total_bytes: int) -> None:
        """The device has this much memory, and this much of it is free; any process may hold the rest."""

    def computed(self, blocks: int) -> None:
        """The device computed this many more blocks."""

    def planned(self) -> None:
        """One more kind of launch was planned."""

    def reused(self) -> None:
        """One more block was queued with a launch that was planned before."""

    def block_timed(self, *, queue_s: float, copy_in_s: float, kernel_s: float, copy_out_s: float) -> None:
        """A sampled block came back; the arguments are the times that it spent in the queue and in each stage."""

    def failed(self, error: AclError | WrongGradient) -> None:
        """A call failed, or the device computed a wrong gradient."""

    def climbed(self, rung: Rung) -> None:
        """The backend tries a rung of the ladder, or the process is to end."""

    def repaired(self, rung: Rung, seconds: float) -> None:
        """A rung of the ladder repaired the device, `seconds` after the fault."""

    def unavailable(self, pause_s: float) -> None:
        """No gradient is computed now: the device is rebuilt (0), or the circuit is open for this long."""

    def available(self) -> None:
        """The device accepts gradients again."""

    def lost(self, error: StartError) -> None:
        """No repair helped: the process has to end with the error's exit code."""
