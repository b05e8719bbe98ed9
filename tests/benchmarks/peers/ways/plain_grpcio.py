"""Plain grpcio with generated code: whole tensors in bytes fields, one unary call a gradient."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np

from benchmarks.peers.ways.operands import Array, Call, Operands, Prepare
from benchmarks.plain_server import UNLIMITED, PlainServicer
from mse_grad.tensor import Reduction, dtype_of
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1 import mse_grad_pb2_grpc as pb_grpc
from mse_grad_server.backends.cpu import CpuBackend

__all__ = ["DISTRIBUTION", "connect", "serve"]

DISTRIBUTION = "grpcio"


def serve(address: str) -> None:
    """Serves until the process ends."""
    backend = CpuBackend()
    backend.open()
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=UNLIMITED)
    pb_grpc.add_MseGradServiceServicer_to_server(PlainServicer(backend), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def connect(address: str) -> Prepare:
    """One channel."""
    stub = pb_grpc.MseGradServiceStub(grpc.insecure_channel(address, options=UNLIMITED))

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
