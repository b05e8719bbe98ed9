"""The peer that anyone would write first: plain grpcio with generated code, as its own process.

A sync server with a thread pool; whole tensors in bytes fields; default settings but for the message limits, which
would refuse a megabyte. It computes with the same kernel as the real server, so that only the way there differs.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np

from mse_grad.tensor import Reduction, dtype_of_wire
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1 import mse_grad_pb2_grpc as pb_grpc
from mse_grad_server.backends.base import GradientSpec
from mse_grad_server.backends.cpu import CpuBackend

__all__ = ["UNLIMITED", "plain_server"]

UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
START_TIMEOUT_S = 60.0


class PlainServicer(pb_grpc.MseGradServiceServicer):
    """`ComputeGradient`, straightforwardly."""

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
        self._backend.compute(spec, predict, label, dout, y)
        return pb.ComputeGradientResponse(
            y=pb.Tensor(dtype=request.predict.dtype, shape=request.predict.shape, data=y.tobytes())
        )


@contextmanager
def plain_server() -> Iterator[str]:
    """Runs the peer for the body of the `with`; gives its address.

    Raises:
        RuntimeError: It ended before it was listening.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        killer = threading.Timer(START_TIMEOUT_S, process.kill)
        killer.start()
        port = process.stdout.readline().strip()
        killer.cancel()
        if not port:
            raise RuntimeError(f"the plain server ended with exit code {process.wait()} before it was listening")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.stdin.close()  # its sign to end


def main() -> None:
    """Serves until standard input ends; prints the port."""
    backend = CpuBackend()
    backend.open()
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=UNLIMITED)
    pb_grpc.add_MseGradServiceServicer_to_server(PlainServicer(backend), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(grace=None).wait()
    backend.close()


if __name__ == "__main__":
    main()
