"""What the backend tells of its device, for metrics, log and health."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mse_grad_server.backends.ascend.faults import AclError
from mse_grad_server.backends.ascend.recovery import Rung
from mse_grad_server.backends.ascend.selfcheck import WrongGradient
from mse_grad_server.exits import StartError

__all__ = ["Observer"]


class Observer(Protocol):
    """Listens to one device. Its methods return at once; any thread may call them."""

    def opened(self, facts: Mapping[str, str]) -> None:
        """The device computes; `facts` say what was found: op_library, soc, cann_version and more."""

    def started(self, step: str, seconds: float) -> None:
        """A step of taking the device took so long: libraries, device or self_check."""

    def holds(self, *, device_bytes: int, pinned_bytes: int) -> None:
        """So much memory of the device, workspaces included, and so much pinned memory is held from now on."""

    def has_left(self, *, free_bytes: int, total_bytes: int) -> None:
        """So much of the memory of the device was free at this time, of so much, whoever holds the rest."""

    def computed(self, blocks: int) -> None:
        """So many more blocks came back."""

    def planned(self) -> None:
        """One more kind of launch was planned."""

    def reused(self) -> None:
        """One more block was queued with a launch that was planned before."""

    def travelled(self, *, queue_s: float, copy_in_s: float, kernel_s: float, copy_out_s: float) -> None:
        """A block waited its turns, was copied to pinned memory and the device, was computed, and came back."""

    def failed(self, error: AclError | WrongGradient) -> None:
        """A call failed, or the device computed wrong."""

    def climbed(self, rung: Rung) -> None:
        """A rung of the ladder is tried, or the process is to end."""

    def repaired(self, rung: Rung, seconds: float) -> None:
        """A rung of the ladder helped, after so long."""

    def unavailable(self, pause_s: float) -> None:
        """No gradient is computed now: the device is made anew (0), or the circuit is open for so long."""

    def available(self) -> None:
        """Requests are taken again."""

    def lost(self, error: StartError) -> None:
        """Nothing helps: the process has to end with the error's exit code."""
