"""A backend on the simulated runtime, and a witness of its reports on the device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mse_grad.tensor import FLOAT32, Array, DType, Reduction
from mse_grad_server.backends.ascend.acl.error_codes import AclError, WrongGradient
from mse_grad_server.backends.ascend.backend import AscendBackend
from mse_grad_server.backends.ascend.recovery.ladder import Rung
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.process.exits import StartError
from support.values import expected
from support.waiting import PATIENCE_S

__all__ = ["DEVICE", "Open", "Opened", "Witness", "operands"]

# The device that these tests use: other tests in the same process use the first one.
DEVICE = 1


@dataclass
class Witness:
    """Records the reports of a backend to its observer."""

    facts: Mapping[str, str] = field(default_factory=dict)
    blocks: int = 0
    kinds: int = 0
    reuses: int = 0
    steps: list[str] = field(default_factory=list)
    ways: list[tuple[float, float, float, float]] = field(default_factory=list)
    device_bytes: int = 0
    pinned_bytes: int = 0
    free_bytes: list[int] = field(default_factory=list)
    total_bytes: int = 0
    failures: list[AclError | WrongGradient] = field(default_factory=list)
    climbs: list[Rung] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    repair_seconds: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    was_made_available: threading.Event = field(default_factory=threading.Event)
    loss: StartError | None = None
    was_lost: threading.Event = field(default_factory=threading.Event)
    was_repaired: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.was_made_available.set()

    @property
    def is_available(self) -> bool:
        """Whether, by the last report, the device takes requests."""
        return self.was_made_available.is_set()

    def opened(self, facts: Mapping[str, str]) -> None:
        self.facts = facts

    def started(self, step: str, seconds: float) -> None:
        self.steps.append(step)

    def holds(self, *, device_bytes: int, pinned_bytes: int) -> None:
        self.device_bytes, self.pinned_bytes = device_bytes, pinned_bytes

    def memory_measured(self, *, free_bytes: int, total_bytes: int) -> None:
        self.free_bytes.append(free_bytes)
        self.total_bytes = total_bytes

    def computed(self, blocks: int) -> None:
        self.blocks += blocks

    def planned(self) -> None:
        self.kinds += 1

    def reused(self) -> None:
        self.reuses += 1

    def block_timed(self, *, queue_s: float, copy_in_s: float, kernel_s: float, copy_out_s: float) -> None:
        self.ways.append((queue_s, copy_in_s, kernel_s, copy_out_s))

    def failed(self, error: AclError | WrongGradient) -> None:
        self.failures.append(error)

    def climbed(self, rung: Rung) -> None:
        self.climbs.append(rung)

    def repaired(self, rung: Rung, seconds: float) -> None:
        self.rungs.append(rung)
        self.repair_seconds.append(seconds)
        self.was_repaired.set()

    def unavailable(self, pause_s: float) -> None:
        self.was_made_available.clear()
        self.pauses.append(pause_s)

    def available(self) -> None:
        self.was_made_available.set()

    def lost(self, error: StartError) -> None:
        self.loss = error
        self.was_lost.set()


@dataclass
class Opened:
    """An open backend.

    Attributes:
        backend: The backend.
        witness: Its observer.
    """

    backend: AscendBackend
    witness: Witness

    def wait_until_available(self) -> None:
        """Returns when the device takes requests again."""
        assert self.witness.was_made_available.wait(PATIENCE_S)

    def check(
        self,
        elements: int,
        *,
        dtype: DType = FLOAT32,
        reduction: Reduction = Reduction.MEAN,
        numel: int | None = None,
        scalar_dout: bool = False,
        seed: int = 0,
        timeout_s: float = PATIENCE_S,
    ) -> None:
        """Computes a gradient and compares every bit with the formula; raises the backend's errors."""
        spec = GradientSpec(dtype, reduction, numel or elements, scalar_dout)
        predict, label, dout = operands(spec, elements, seed)
        y = np.full(elements, np.nan, dtype.numpy)
        self.backend.compute(Gradient(spec, predict, label, dout, y, time.monotonic() + timeout_s))
        wanted = expected(predict, label, dout, reduction.text, numel=spec.numel)
        np.testing.assert_array_equal(y.view(np.uint8), wanted.view(np.uint8))


Open: TypeAlias = Callable[..., AbstractContextManager[Opened]]


def operands(spec: GradientSpec, elements: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Returns predict, label and dout, the same for the same seed."""
    random = np.random.default_rng(seed)
    dtype = spec.dtype.numpy
    return (
        random.standard_normal(elements).astype(dtype),
        random.standard_normal(elements).astype(dtype),
        random.uniform(0.5, 2.0, 1 if spec.scalar_dout else elements).astype(dtype),
    )
