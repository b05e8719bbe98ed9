"""A host of several workers, observed from outside: their answers, their states, and their lines in the log."""

from __future__ import annotations

import urllib.request
from typing import Any

import grpc

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from support.server.server_process import ServerProcess
from support.values import expected, operands
from support.waiting import PATIENCE_S

__all__ = ["compute", "info", "metrics", "pid_of", "states", "worker_events"]

# By default, the channels of one process share connections.
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def info(address: str) -> pb.GetServerInfoResponse:
    """Returns the server info over a new connection to `address`."""
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        answer: pb.GetServerInfoResponse = MseGradServiceStub(channel).GetServerInfo(
            pb.GetServerInfoRequest(), timeout=PATIENCE_S, wait_for_ready=True
        )
        return answer


def states(address: str) -> list[tuple[str, str, str]]:
    """Returns address, device and state of each worker, as the server at `address` reports them."""
    names = {number: name.removeprefix("WORKER_STATE_").lower() for name, number in pb.WorkerState.items()}
    return [(at.address, at.device, names[at.state]) for at in info(address).endpoints]


def compute(address: str, *, elements: int = 1000, timeout_s: float = PATIENCE_S) -> None:
    """Computes one gradient at `address` with a plain client; compares every bit."""
    given = operands((elements,))
    predict, label, dout = (
        pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[elements], data=array.tobytes()) for array in given
    )
    request = pb.ComputeGradientRequest(predict=predict, label=label, dout=dout, reduction=pb.REDUCTION_MEAN)
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        answer = MseGradServiceStub(channel).ComputeGradient(request, timeout=timeout_s)
    assert answer.y.data == expected(*given).tobytes()


def metrics(host: ServerProcess) -> str:
    """Returns the page of metrics."""
    with urllib.request.urlopen(f"http://{host.metrics_address}/metrics", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def worker_events(host: ServerProcess, name: str, worker: str) -> list[dict[str, Any]]:
    """Returns the lines of the log about a worker with this event, oldest first."""
    return [event for event in host.events if event["event"] == name and event.get("worker") == worker]


def pid_of(host: ServerProcess, worker: str) -> int:
    """Returns the process id of a worker."""
    return int(worker_events(host, "worker_started", worker)[-1]["pid"])
