"""Every kernel over every transport: it gives the bits of the formula, or refuses a dtype that it does not compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_cli.commands.paths import in_shared_memory, one_of_many
from mse_grad_cli.conformance import Compute, Dout, cases, run_bar, same_bits
from mse_grad_client import ClientOptions, MseGradClient, Unimplemented
from support.numerics.compute import formula_compute
from support.server.server_process import ServerProcess
from support.values import operands
from support.waiting import wait_until

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def assert_bits_of_the_formula(client: MseGradClient, compute: Compute, dtype: DType) -> None:
    if dtype.name not in client.server_info().dtypes:
        assert_refused(compute, dtype)
        return
    for case in cases(dtype, quick=True):
        y, wanted = case.run(compute), case.run(formula_compute)
        assert (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
        assert same_bits(y.reshape(-1), wanted.reshape(-1)).all(), str(case)


def assert_refused(compute: Compute, dtype: DType) -> None:
    x = np.ones(3, dtype.numpy)
    with pytest.raises(Unimplemented) as raised:
        compute(x, x, x, "mean")
    assert raised.value.reason is Reason.DTYPE_NOT_ON_BACKEND


@dataclass(frozen=True)
class Transport:
    """A path of a case to the server: the client's options, and the call."""

    options: ClientOptions
    compute_of: Callable[[MseGradClient], Compute] = attrgetter("compute")
    name: str = ""


TRANSPORTS = {
    "stream": Transport(ClientOptions(shared_memory=False, direct=False)),
    "stream, chunk by chunk": Transport(
        ClientOptions(chunk_bytes=4096, window_chunks=1, shared_memory=False, direct=False)
    ),
    "direct": Transport(ClientOptions(shared_memory=False), name="direct"),
    "direct, chunk by chunk": Transport(
        ClientOptions(chunk_bytes=4096, window_chunks=1, shared_memory=False), name="direct"
    ),
    "one of many, direct": Transport(ClientOptions(shared_memory=False), one_of_many, name="direct"),
    "one of many": Transport(ClientOptions(), one_of_many),
    "unary": Transport(ClientOptions(), attrgetter("compute_unary")),
    "shared memory": Transport(ClientOptions(shared_from_bytes=0), in_shared_memory, name="shared_memory"),
    "copied through shared memory": Transport(ClientOptions(copied_from_bytes=0)),
    "packets if it fits": Transport(ClientOptions()),
}


@by_dtype
@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
def test_every_case_has_the_bits_of_the_formula(
    server_of_kernel: ServerProcess, client_type: type[MseGradClient], transport: Transport, dtype: DType
) -> None:
    with client_type(server_of_kernel.address, options=transport.options) as client:
        if transport.name:
            wait_until(lambda: client.server_info().transport == transport.name)
        assert_bits_of_the_formula(client, transport.compute_of(client), dtype)


@by_dtype
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full dout", "scalar dout"])
def test_many_chunks_of_odd_sizes_in_and_through_shared_memory(
    any_client: MseGradClient, dtypes: tuple[DType, ...], dtype: DType, scalar_dout: bool
) -> None:
    if dtype not in dtypes:
        assert_refused(any_client.compute, dtype)
        return
    count = 3 * 2**20 + 7  # several chunks, and on the CPU more than one thread
    predict, label, dout = operands((count,), dtype)
    wanted = any_client.compute_unary(predict[:1000], label[:1000], dout[:1000], "mean", numel=count)
    given = dout[:1] if scalar_dout else dout
    shared = [any_client.empty(count, dtype.numpy) for _ in range(4)]
    for array, values in zip(shared, (predict, label, dout), strict=False):
        array[...] = values
    through = any_client.compute(predict, label, given, "mean")
    beside = any_client.compute(shared[0], label, given, "mean")
    within = any_client.compute(shared[0], shared[1], given[:1] if scalar_dout else shared[2], "mean", out=shared[3])
    assert within is shared[3]
    assert same_bits(through, within).all()
    assert same_bits(beside, within).all()
    if not scalar_dout:
        assert same_bits(within[:1000], wanted).all()
    with type(any_client)(any_client.address, options=ClientOptions(shared_memory=False)) as other:
        assert same_bits(other.compute(predict, label, given, "mean"), within).all()


@by_dtype
def test_an_operand_that_receives_the_gradient(
    any_client: MseGradClient, dtypes: tuple[DType, ...], dtype: DType
) -> None:
    if dtype not in dtypes:
        assert_refused(any_client.compute, dtype)
        return
    for case in cases(dtype, quick=True):
        if not isinstance(case.dout, np.ndarray) or case.dout.shape != case.predict.shape:
            continue
        wanted = case.run(formula_compute)
        for index in range(3):
            operands = [operand.copy() for operand in (case.predict, case.label, case.dout)]
            x, t, g = operands
            y = any_client.compute(x, t, g, case.reduction.text, out=operands[index])
            assert y is operands[index]
            assert same_bits(y.reshape(-1), wanted.reshape(-1)).all(), str(case)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_line_of_the_bar_holds_over_the_stream(client: MseGradClient, dtypes: tuple[DType, ...]) -> None:
    def part(predict: Array, label: Array, dout: Dout, reduction: str, numel: int) -> Array:
        return client.compute(predict, label, dout, reduction, numel=numel)

    paths = {"unary": client.compute_unary, "formula": formula_compute}
    report = run_bar(client.compute, part=part, paths=paths, dtypes=dtypes)
    assert report.passed, str(report)
