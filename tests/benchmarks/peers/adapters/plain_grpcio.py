"""Plain grpcio with generated code, the peer that anyone would write first: one unary call for each gradient.

A sync server with a thread pool; whole tensors in bytes fields; default settings except the message limits, which would
refuse a megabyte. It computes with the same kernel as the real server, so that only the transport differs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from benchmarks.peers.adapters.operands import Array, Call, Operands, Prepare
from benchmarks.peers.rows import CERTIFICATE, KEY
from mse_grad.tensor import Reduction, dtype_of, dtype_of_wire
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1 import mse_grad_pb2_grpc as pb_grpc
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.backends.cpu import CpuBackend

__all__ = ["DISTRIBUTION", "connect", "serve"]

DISTRIBUTION = "grpcio"

_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class PlainServicer(pb_grpc.MseGradServiceServicer):
    """`ComputeGradient` in the simplest way."""

    def __init__(self, backend: CpuBackend) -> None:
        self._backend = backend

    def ComputeGradient(  # noqa: N802  the name is the contract's
        self, request: pb.ComputeGradientRequest, context: grpc.ServicerContext
    ) -> pb.ComputeGradientResponse:
        dtype = dtype_of_wire(request.predict.dtype, field="predict")
        predict = np.frombuffer(request.predict.data, dtype.numpy)
        label = np.frombuffer(request.label.data, dtype.numpy)
        dout = np.frombuffer(request.dout.data, dtype.numpy)
        y = np.empty_like(predict)
        spec = GradientSpec(dtype, Reduction.of_wire(request.reduction), predict.size, dout.size != predict.size)
        self._backend.compute(Gradient(spec, predict, label, dout, y))
        return pb.ComputeGradientResponse(
            y=pb.Tensor(dtype=request.predict.dtype, shape=request.predict.shape, data=y.tobytes())
        )


def serve(address: str) -> None:
    """Serves until the process ends."""
    backend = CpuBackend()
    backend.open()
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=_UNLIMITED)
    pb_grpc.add_MseGradServiceServicer_to_server(PlainServicer(backend), server)
    if KEY in os.environ:
        certificate, key = (Path(os.environ[name]).read_bytes() for name in (CERTIFICATE, KEY))
        server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
    else:
        server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def connect(address: str) -> Prepare:
    """One channel."""
    if CERTIFICATE in os.environ:
        trusted = grpc.ssl_channel_credentials(Path(os.environ[CERTIFICATE]).read_bytes())
        channel = grpc.secure_channel(address, trusted, options=_UNLIMITED)
    else:
        channel = grpc.insecure_channel(address, options=_UNLIMITED)
    stub = pb_grpc.MseGradServiceStub(channel)

    def prepare(operands: Operands) -> Call:
        dtype = dtype_of(operands.predict.dtype, field="predict")

        def tensor(array: Array) -> pb.Tensor:
            return pb.Tensor(dtype=dtype.wire, shape=array.shape, data=array.tobytes())  # type: ignore[arg-type]

        def call() -> Array:
            request = pb.ComputeGradientRequest(
                predict=tensor(operands.predict),
                label=tensor(operands.label),
                dout=tensor(operands.dout),
                reduction=int(Reduction.SUM),  # type: ignore[arg-type]
            )
            y: Array = np.frombuffer(stub.ComputeGradient(request).y.data, dtype.numpy)
            return y

        return call

    return prepare
