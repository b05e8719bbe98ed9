"""The seam between the service and what computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mse_grad.tensor import Array, DType, Reduction

__all__ = ["Backend", "GradientSpec"]


@dataclass(frozen=True)
class GradientSpec:
    """What is computed, apart from the elements.

    Attributes:
        dtype: Element type of predict, label, dout and y.
        reduction: Reduction of the loss.
        numel: N of the coefficient: the element count of the whole tensor, also where a call sees a part of it.
        scalar_dout: Whether dout is a single element.
    """

    dtype: DType
    reduction: Reduction
    numel: int
    scalar_dout: bool


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

    def open(self) -> None:
        """Takes the device; raises BackendError where it cannot."""

    def compute(self, spec: GradientSpec, predict: Array, label: Array, dout: Array, y: Array) -> None:
        """Writes the gradient of n >= 1 elements to `y`; blocks, and releases the GIL while it computes.

        Args:
            spec: What to compute.
            predict: n elements of `spec.dtype`, one dimension; alignment is not assumed.
            label: n elements, likewise.
            dout: n elements, or one where `spec.scalar_dout`.
            y: n elements, writable, overlapping none of the others.
        """

    def close(self) -> None:
        """Gives the device back; a second call does nothing."""
