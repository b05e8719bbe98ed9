"""Those who are measured: ours over each transport, plain grpcio, and the same work without a wire.

Each call returns a new array, as its users call it; PyTorch also writes to a given one, which its autograd never does,
and so does ours where the client's own arrays are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.operands import REDUCTION, Operands
from benchmarks.plain_client import plain_client
from benchmarks.plain_server import plain_server
from mse_grad.formula import coefficient, gradient_into
from mse_grad.tensor import Array
from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.backends.cpu import CpuBackend
from support.server import running_server

__all__ = [
    "KERNEL",
    "NUMPY",
    "OURS_COPIED",
    "OURS_SHARED",
    "OURS_STREAM",
    "OURS_UNARY",
    "OURS_UNIX",
    "PLAIN",
    "TORCH",
    "TORCH_OUT",
    "Contender",
    "contenders",
]

OURS_STREAM = ("compute", "tcp stream")
OURS_UNIX = ("compute", "unix stream")
OURS_COPIED = ("compute", "shared memory, copied")
OURS_SHARED = ("compute, client.empty", "shared memory")
OURS_UNARY = ("compute_unary", "tcp unary")
PLAIN = ("plain grpcio", "tcp unary")
KERNEL = ("native kernel", "in-process")
NUMPY = ("numpy", "in-process")
TORCH = ("pytorch", "in-process")
TORCH_OUT = ("pytorch, out given", "in-process")

WIRE = ClientOptions(shared_memory=False)


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        key: Name and transport.
        prepare: Returns for given operands the call that is timed; the call returns the gradient.
        same_bits: Whether the gradient must be the golden one, bit for bit.
        most_bytes: Largest three operands that it takes, in bytes, or None.
    """

    key: tuple[str, str]
    prepare: Callable[[Operands], Callable[[], Array]]
    same_bits: bool = True
    most_bytes: int | None = None

    def takes(self, operands: Operands) -> bool:
        """Whether it can compute these at all."""
        return self.most_bytes is None or operands.moved_bytes * 3 // 4 <= self.most_bytes


@contextmanager
def contenders(folder: Path) -> Iterator[list[Contender]]:
    """Starts every server and gives the contenders; PyTorch only where it is installed.

    Args:
        folder: Where the unix socket may lie.
    """
    with ExitStack() as stack:
        tcp = stack.enter_context(running_server())
        unix = stack.enter_context(running_server(listen=f"unix:{folder / 'bench.sock'}"))
        plain = stack.enter_context(plain_server())
        over_tcp = stack.enter_context(MseGradClient(tcp.address, options=WIRE))
        over_unix = stack.enter_context(MseGradClient(unix.address, options=WIRE))
        sharing = stack.enter_context(MseGradClient(tcp.address))
        plainly = stack.enter_context(plain_client(plain))
        backend = CpuBackend()
        backend.open()
        stack.callback(backend.close)
        message_bytes = over_tcp.server_info().limits.max_unary_bytes - 1024
        yield [
            Contender(OURS_STREAM, lambda operands: _compute(over_tcp, operands)),
            Contender(OURS_UNIX, lambda operands: _compute(over_unix, operands)),
            Contender(OURS_COPIED, lambda operands: _compute(sharing, operands)),
            Contender(OURS_SHARED, lambda operands: _compute_in_place(sharing, operands)),
            Contender(OURS_UNARY, lambda operands: _compute_unary(over_tcp, operands), most_bytes=message_bytes),
            Contender(PLAIN, plainly.prepare),
            Contender(KERNEL, lambda operands: _kernel(backend, operands)),
            Contender(NUMPY, _numpy),
            *_torch(),
        ]


def _compute(client: MseGradClient, operands: Operands) -> Callable[[], Array]:
    predict, label, dout = operands.predict, operands.label, operands.dout
    return lambda: client.compute(predict, label, dout, REDUCTION.text)


def _compute_in_place(client: MseGradClient, operands: Operands) -> Callable[[], Array]:
    predict, label, dout, out = (client.empty(operands.elements, operands.dtype.numpy) for _ in range(4))
    predict[...], label[...], dout[...] = operands.predict, operands.label, operands.dout
    return lambda: client.compute(predict, label, dout, REDUCTION.text, out=out)


def _compute_unary(client: MseGradClient, operands: Operands) -> Callable[[], Array]:
    predict, label, dout = operands.predict, operands.label, operands.dout
    return lambda: client.compute_unary(predict, label, dout, REDUCTION.text)


def _kernel(backend: CpuBackend, operands: Operands) -> Callable[[], Array]:
    spec = GradientSpec(operands.dtype, REDUCTION, operands.elements, scalar_dout=False)

    def call() -> Array:
        y = np.empty_like(operands.predict)
        backend.compute(spec, operands.predict, operands.label, operands.dout, y)
        return y

    return call


def _numpy(operands: Operands) -> Callable[[], Array]:
    c = coefficient(REDUCTION, operands.elements, operands.dtype)

    def call() -> Array:
        y = np.empty_like(operands.predict)
        gradient_into(y, operands.predict, operands.label, operands.dout, c=c, dtype=operands.dtype)
        return y

    return call


def _torch() -> list[Contender]:
    try:
        import torch
    except ModuleNotFoundError:
        return []
    torch.set_num_threads(1)
    aten_sum = 2

    backward = torch.ops.aten.mse_loss_backward

    def tensors(operands: Operands, *arrays: Array) -> Iterator[Any]:
        as_bits = np.dtype(f"i{operands.dtype.itemsize_bytes}")  # torch.from_numpy knows no bfloat16
        for array in arrays:
            yield torch.from_numpy(array.view(as_bits)).view(getattr(torch, operands.dtype.name))

    def prepare(operands: Operands) -> Callable[[], Array]:
        predict, label, dout = tensors(operands, operands.predict, operands.label, operands.dout)
        as_bits = getattr(torch, f"int{8 * operands.dtype.itemsize_bytes}")

        def call() -> Array:
            y: Array = backward(dout, predict, label, aten_sum).view(as_bits).numpy().view(operands.dtype.numpy)
            return y

        return call

    def prepare_out(operands: Operands) -> Callable[[], Array]:
        y = np.empty_like(operands.predict)
        predict, label, dout, out = tensors(operands, operands.predict, operands.label, operands.dout, y)

        def call() -> Array:
            backward.grad_input(dout, predict, label, aten_sum, grad_input=out)
            return y

        return call

    # PyTorch rounds each step of 16-bit operands: other bits than ours there.
    return [Contender(TORCH, prepare, same_bits=False), Contender(TORCH_OUT, prepare_out, same_bits=False)]
