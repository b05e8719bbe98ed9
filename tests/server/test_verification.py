from __future__ import annotations

import math

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT32, FLOAT64, Array, DType, Reduction
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.exits import ExitCode, VerificationFailed
from mse_grad_server.verification import verify
from support.in_process import FakeBackend, serving


class LyingBackend(FakeBackend):
    """Right but for one kind of gradient, to which `lie` is done."""

    def __init__(self, dtype: DType, reduction: Reduction, scalar_dout: bool, lie: str) -> None:
        super().__init__()
        self._kind = (dtype, reduction, scalar_dout)
        self._lie = lie

    def compute(
        self, spec: GradientSpec, predict: Array, label: Array, dout: Array, y: Array, *, deadline_s: float = math.inf
    ) -> None:
        if (spec.dtype, spec.reduction, spec.scalar_dout) != self._kind:
            super().compute(spec, predict, label, dout, y)
        elif self._lie == "nothing written":
            return
        elif self._lie == "last element missing":
            super().compute(spec, predict[:-1], label[:-1], dout if spec.scalar_dout else dout[:-1], y[:-1])
        elif self._lie == "label and predict swapped":
            super().compute(spec, label, predict, dout, y)
        elif self._lie == "one bit off":
            super().compute(spec, predict, label, dout, y)
            y.view(np.uint8)[100] ^= 1
        else:
            super().compute(spec, predict, label, dout, y)
            whole = y.base
            assert whole is not None
            whole.reshape(-1).view(np.uint8)[-1] = 0


def test_a_right_backend_passes_with_every_kind_of_gradient() -> None:
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
def test_a_wrong_backend_is_found_and_the_kind_of_gradient_named(
    dtype: DType, reduction: Reduction, scalar_dout: bool, lie: str
) -> None:
    kind = f"{dtype.name}, {reduction.text}, {'scalar' if scalar_dout else 'full'} dout"
    with pytest.raises(VerificationFailed, match=kind) as error:
        verify(LyingBackend(dtype, reduction, scalar_dout, lie))
    assert error.value.exit_code is ExitCode.VERIFICATION


async def test_a_wrong_backend_ends_the_start() -> None:
    backend = LyingBackend(FLOAT32, Reduction.MEAN, False, "one bit off")
    async with serving(backend=backend, open=False) as server:
        with pytest.raises(VerificationFailed, match="float32, mean, full dout"):
            await server.server.open()
        assert server.metric("mse_grad_ready") == 0
        assert not server.events("ready")
