"""The seam between the service and what computes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from mse_grad.tensor import Array, DType, Reduction

__all__ = ["Backend", "ComputeAll", "Failure", "Gradient", "GradientSpec", "OneByOne"]


@dataclass(frozen=True)
class GradientSpec:
    """What is computed, apart from the elements.

    Attributes:
        dtype: Element type of predict, label, dout and y.
        reduction: Reduction of the loss.
        numel: N of the coefficient: the element count of one whole tensor, also where a call sees a part of it, or
            several.
        scalar_dout: Whether dout is a single element.
    """

    dtype: DType
    reduction: Reduction
    numel: int
    scalar_dout: bool


class Gradient(NamedTuple):
    """A gradient to compute: what `Backend.compute` is called with."""

    spec: GradientSpec
    predict: Array
    label: Array
    dout: Array
    y: Array
    deadline_s: float = math.inf


Failure: TypeAlias = tuple[int, Exception]
"""The index of the gradient that failed, and why."""

ComputeAll: TypeAlias = Callable[[Sequence[Gradient]], Failure | None]
"""What `Backend.compute_all` is."""


class Backend(Protocol):
    """Computes gradients. `compute` may be called from several threads at a time between `open` and `close`."""

    @property
    def name(self) -> str:
        """Name of the backend: "cpu" or "ascend"."""

    @property
    def device(self) -> str:
        """What computes: a kernel variant or a SoC name; known after `open`."""

    @property
    def kernel_hash(self) -> str:
        """Hexadecimal hash of the kernel's source; known after `open`."""

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The element types that it computes."""

    @property
    def inline_bytes(self) -> int:
        """The largest gradient that may hold up the event loop; 0 where computing waits for a device."""

    @property
    def threads(self) -> int:
        """How many calls of `compute` at a time keep it busy, at least; 1 where the settings know better."""

    @property
    def part_bytes(self) -> int:
        """Bytes of gradients that are worth a call, and an answer, of their own where a message brings more."""

    def open(self) -> None:
        """Takes the device; raises BackendError where it cannot."""

    def compute(
        self,
        spec: GradientSpec,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        deadline_s: float = math.inf,
    ) -> None:
        """Writes the gradient of n >= 1 elements to `y`; blocks, and releases the GIL while it computes.

        Args:
            spec: What to compute.
            predict: n elements of `spec.dtype`, one dimension; alignment is not assumed.
            label: n elements, likewise.
            dout: n elements, or one where `spec.scalar_dout`.
            y: n elements, writable, overlapping none of the others.
            deadline_s: When the caller stops waiting, in the time of the event loop, which is that of
                `time.monotonic`. Whoever waits for a device gives up then with DeadlineExceeded.
        """

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """Computes the gradients, together where that is faster; returns the first that failed, or None.

        Those behind the one that failed may not be computed then.
        """

    def look(self) -> None:
        """Notices a device that does not return, also where nobody waits for it; returns at once."""

    def close(self) -> None:
        """Gives the device back; a second call does nothing."""


class OneByOne(ABC):
    """`compute_all` for a backend that waits for nothing, and gains nothing from several gradients at a time."""

    @abstractmethod
    def compute(
        self,
        spec: GradientSpec,
        predict: Array,
        label: Array,
        dout: Array,
        y: Array,
        *,
        deadline_s: float = math.inf,
    ) -> None:
        """See `Backend.compute`."""

    def look(self) -> None:  # noqa: B027 - there is nothing to notice
        """See `Backend.look`."""

    def compute_all(self, gradients: Sequence[Gradient]) -> Failure | None:
        """See `Backend.compute_all`."""
        for index, (spec, predict, label, dout, y, _) in enumerate(gradients):
            try:
                self.compute(spec, predict, label, dout, y)
            except Exception as error:  # noqa: BLE001 - whatever it is, it ends this gradient and not its neighbours
                return index, error
        return None
