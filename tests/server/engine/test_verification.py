from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT32, FLOAT64, DType, Reduction
from mse_grad_server.backends.base import Gradient
from mse_grad_server.backends.edges import Edges
from mse_grad_server.engine.verification import find_edges, verify
from mse_grad_server.process.exits import ExitCode, VerificationFailed
from support.server.fakes import FakeBackend
from support.server.server_in_loop import serving


class LyingBackend(FakeBackend):
    """Correct, except for one kind of gradient, which `lie` changes."""

    def __init__(self, dtype: DType, reduction: Reduction, scalar_dout: bool, lie: str) -> None:
        super().__init__()
        self._kind = (dtype, reduction, scalar_dout)
        self._lie = lie

    def compute(self, gradient: Gradient) -> None:
        spec, predict, label, dout, y = gradient[:5]
        if (spec.dtype, spec.reduction, spec.scalar_dout) != self._kind:
            super().compute(gradient)
        elif self._lie == "nothing written":
            return
        elif self._lie == "last element missing":
            tail = dout if spec.scalar_dout else dout[:-1]
            super().compute(Gradient(spec, predict[:-1], label[:-1], tail, y[:-1]))
        elif self._lie == "label and predict swapped":
            super().compute(Gradient(spec, label, predict, dout, y))
        elif self._lie == "one bit off":
            super().compute(gradient)
            y.view(np.uint8)[100] ^= 1
        else:
            super().compute(gradient)
            whole = y.base
            assert whole is not None
            whole.reshape(-1).view(np.uint8)[-1] = 0


def test_a_correct_backend_passes_with_every_kind_of_gradient() -> None:
    backend = FakeBackend()
    assert verify(backend) == len(DTYPES) * len(Reduction) * 2 == len(backend.computed_sizes)


@pytest.mark.parametrize(
    "lie", ["nothing written", "last element missing", "label and predict swapped", "one bit off", "written beside"]
)
@pytest.mark.parametrize(
    ("dtype", "reduction", "scalar_dout"),
    [
        (FLOAT32, Reduction.MEAN, False),
        (BFLOAT16, Reduction.SUM, True),
        (FLOAT64, Reduction.NONE, False),
    ],
    ids=str,
)
def test_a_wrong_backend_is_detected_and_the_kind_of_gradient_is_named(
    dtype: DType, reduction: Reduction, scalar_dout: bool, lie: str
) -> None:
    kind = f"{dtype.name}, {reduction.text}, {'scalar' if scalar_dout else 'full'} dout"
    with pytest.raises(VerificationFailed, match=kind) as error:
        verify(LyingBackend(dtype, reduction, scalar_dout, lie))
    assert error.value.exit_code is ExitCode.VERIFICATION


class SaturatingBackend(FakeBackend):
    """Saturates: infinity becomes the largest value, and NaN becomes 0."""

    def compute(self, gradient: Gradient) -> None:
        y = gradient.y
        super().compute(gradient)
        largest = ml_dtypes.finfo(y.dtype).max  # type: ignore[no-untyped-call]
        y[np.isnan(y)] = 0
        y[np.isinf(y)] = np.copysign(largest, y[np.isinf(y)])


class FlushingBackend(FakeBackend):
    """Flushes subnormals to zero."""

    def compute(self, gradient: Gradient) -> None:
        y = gradient.y
        super().compute(gradient)
        least = ml_dtypes.finfo(y.dtype).smallest_normal  # type: ignore[no-untyped-call]
        with np.errstate(invalid="ignore"):  # comparisons with NaN
            y[np.abs(y) < least] = 0


@pytest.mark.parametrize(
    ("backend", "edges"),
    [
        (FakeBackend(), Edges(infinities=True, nans=True, overflow=True, subnormals=True)),
        (SaturatingBackend(), Edges(infinities=False, nans=False, overflow=False, subnormals=True)),
        (FlushingBackend(), Edges(infinities=True, nans=True, overflow=True, subnormals=False)),
    ],
    ids=["right", "saturating", "flushing"],
)
def test_the_edges_that_hold_are_found(backend: FakeBackend, edges: Edges) -> None:
    assert find_edges(backend) == edges


async def test_differing_edges_are_logged_and_the_server_becomes_ready() -> None:
    async with serving(backend=SaturatingBackend()) as server:
        (told,) = server.events("edges")
        assert told["level"] == "warning"
        assert (told["overflow_mode"], told["infinities"], told["subnormals"]) == ("inf_nan", False, True)
        assert server.events("ready")


async def test_a_wrong_backend_ends_the_start() -> None:
    backend = LyingBackend(FLOAT32, Reduction.MEAN, False, "one bit off")
    async with serving(backend=backend, open=False) as server:
        with pytest.raises(VerificationFailed, match="float32, mean, full dout"):
            await server.server.open()
        assert server.metric("mse_grad_ready") == 0
        assert not server.events("ready")
