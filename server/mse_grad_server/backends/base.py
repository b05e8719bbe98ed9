"""The interface between the service and the backends that compute gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from mse_grad.tensor import Array, DType, Reduction
from mse_grad_server.backends.edges import OverflowMode
from mse_grad_server.backends.progress import Progress, unwanted
from mse_grad_server.process.timeline import Timeline

__all__ = ["Backend", "ComputeAll", "Failure", "Gradient", "GradientSpec", "OneByOne"]


@dataclass(frozen=True)
class GradientSpec:
    """The kind of a gradient: everything about it but its elements.

    Attributes:
        dtype: Element type of predict, label, dout and y.
        reduction: Reduction of the loss.
        numel: N of the coefficient: the element count of one whole tensor. A call may hold a part of that tensor, or
            several such tensors.
        scalar_dout: Whether dout is a single element.
    """

    dtype: DType
    reduction: Reduction
    numel: int
    scalar_dout: bool


class Gradient(NamedTuple):
    """A gradient of n >= 1 elements to compute.

    Attributes:
        spec: Kind of the gradient.
        predict: n elements of `spec.dtype`, one dimension; any alignment.
        label: n elements of `spec.dtype`, one dimension; any alignment.
        dout: n elements, or one if `spec.scalar_dout`; any alignment.
        y: n elements, writable, overlapping none of the others; gets the gradient.
        deadline_s: When the caller stops waiting, in the time of the event loop, which is that of `time.monotonic`. A
            backend that waits for a device raises DeadlineExceeded then.
        timeline: Timeline of a traced request, to which a backend with phases of its own adds them; None without.
        progress: Request that it is a part of, which a backend asks before each step and tells its phases; None if
            nobody can stop waiting meanwhile.
    """

    spec: GradientSpec
    predict: Array
    label: Array
    dout: Array
    y: Array
    deadline_s: float = math.inf
    timeline: Timeline | None = None
    progress: Progress | None = None


Failure: TypeAlias = tuple[int, Exception]
"""The index of the gradient that failed, and its error."""

ComputeAll: TypeAlias = Callable[[Sequence[Gradient]], Failure | None]
"""The type of `Backend.compute_all`."""


class Backend(Protocol):
    """A way to compute gradients.

    Thread safety: between `open` and `close`, `compute` and `compute_all` are thread-safe.
    """

    @property
    def name(self) -> str:
        """Name of the backend: "cpu" or "ascend"."""

    @property
    def device(self) -> str:
        """The kernel variant or the name of the chip that computes; known after `open`."""

    @property
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the kernel's source; known after `open`."""

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The element types that the backend computes."""

    @property
    def overflow_mode(self) -> OverflowMode:
        """The overflow mode that the device reports; known after `open`."""

    @property
    def inline_bytes(self) -> int:
        """The largest gradient that may run in the event loop; 0 if computing waits for a device."""

    @property
    def threads(self) -> int:
        """The least number of concurrent calls that keeps the backend busy; 1 if the settings decide instead."""

    @property
    def part_bytes(self) -> int:
        """The least bytes of gradients that are worth a separate call and answer, if a message holds more."""

    def open(self) -> None:
        """Opens the device; raises BackendError if it cannot."""

    def compute(self, gradient: Gradient) -> None:
        """Writes the gradient to its `y`. The call blocks, and releases the GIL while it computes."""

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes the gradients, concurrently if that is faster; returns the first failure, or None.

        After a failure, the gradients behind the failed one may not have been computed.
        """

    def look(self) -> None:
        """Checks for a call to the device that does not return, even if no request waits for it; returns at once."""

    def close(self) -> None:
        """Closes the device; a second call does nothing."""


class OneByOne(ABC):
    """`compute_all` for a backend that never waits, and so gains nothing from several gradients at a time."""

    overflow_mode = OverflowMode.INF_NAN

    @abstractmethod
    def compute(self, gradient: Gradient) -> None:
        """Writes the gradient to its `y`, as `Backend.compute` does."""

    def look(self) -> None:  # noqa: B027 - there is no device to check
        """Does nothing: no call can hang."""

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes the gradients in order, up to the first that fails or is dropped; returns its error, or None."""
        for index, gradient in enumerate(gradients):
            if index and gradient.progress is not None and not gradient.progress.is_open:
                return index, unwanted()
            try:
                self.compute(gradient)
            except Exception as error:  # noqa: BLE001 - an error ends only this gradient, not its neighbours
                return index, error
        return None
