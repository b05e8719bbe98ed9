from __future__ import annotations

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, DType, Reduction
from mse_grad_server.backends.base import Failure, Gradient, GradientSpec
from mse_grad_server.engine.wrappers import OutputSample
from mse_grad_server.errors import BackendError
from mse_grad_server.metrics.registry import Metrics
from support.server.fakes import FakeBackend
from support.server.raw_stream import chunk, header
from support.server.server_in_loop import serving


def gradient(dtype: DType, predict: list[float], dout: list[float], *, scalar_dout: bool = False) -> Gradient:
    """Returns a gradient whose label is zero and whose y is not computed yet."""
    spec = GradientSpec(dtype, Reduction.SUM, len(predict), scalar_dout)
    with np.errstate(all="ignore"):
        operands = [np.array(one).astype(dtype.numpy) for one in (predict, dout)]
    return Gradient(spec, operands[0], np.zeros_like(operands[0]), operands[1], np.empty_like(operands[0]))


def counts(metrics: Metrics) -> tuple[float | None, ...]:
    value = metrics.registry.get_sample_value
    return tuple(value(f"mse_grad_{name}_elements_total") for name in ("sampled", "nonfinite", "underflowed"))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_infinite_and_nan_gradients_are_counted(dtype: DType) -> None:
    metrics = Metrics()
    sample = OutputSample(FakeBackend().compute_all, metrics, every=1)
    assert sample.compute_all([gradient(dtype, [1.0, float("inf"), float("nan"), 0.0], [1.0] * 4)]) is None
    assert counts(metrics) == (4, 2, 0)


@pytest.mark.parametrize(("dtype", "tiny"), [(FLOAT16, 2.0**-20), (BFLOAT16, 2.0**-120), (FLOAT32, 2.0**-130)])
@pytest.mark.parametrize("scalar_dout", [False, True])
def test_a_zero_that_differs_from_the_formula_counts_as_underflow(dtype: DType, tiny: float, scalar_dout: bool) -> None:
    metrics = Metrics()
    sample = OutputSample(FakeBackend().compute_all, metrics, every=1)
    dout = [tiny] if scalar_dout else [tiny, tiny, 0.0]
    sample.compute_all([gradient(dtype, [tiny, 0.0, tiny], dout, scalar_dout=scalar_dout)])
    assert counts(metrics) == (3, 0, 2 if scalar_dout else 1)


def test_one_call_in_every_n_is_inspected_and_a_large_gradient_in_part() -> None:
    metrics = Metrics()
    sample = OutputSample(FakeBackend().compute_all, metrics, every=3)
    large = gradient(FLOAT32, [1.0] * 10_000, [1.0], scalar_dout=True)
    for _ in range(7):
        sample.compute_all([large])
    sampled, nonfinite, underflowed = counts(metrics)
    assert sampled is not None
    assert 2 * 2048 <= sampled <= 2 * 4096
    assert (nonfinite, underflowed) == (0, 0)


def test_a_failed_gradient_is_not_inspected() -> None:
    failure: Failure = (0, BackendError("no"))
    metrics = Metrics()
    sample = OutputSample(lambda gradients: failure, metrics, every=1)
    assert sample.compute_all([gradient(FLOAT32, [float("nan")], [1.0])]) is failure
    assert counts(metrics) == (0, 0, 0)


async def test_gradients_are_inspected_only_if_the_settings_ask_for_it() -> None:
    for every, sampled in ((0, 0), (1, 1)):
        async with serving(output_sample_every=every) as server:
            stream = await server.stream()
            await stream.send([header(1, (1,))], [chunk(1, 0, [1.0])])
            await stream.receive()
            assert server.metric("mse_grad_sampled_elements_total") == sampled
