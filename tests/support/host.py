"""A host of several workers from outside: what they do, what they say of each other, what is logged of them."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from support.operands import expected, operands
from support.server import ServerProcess

__all__ = ["PATIENCE_S", "compute", "info", "metrics", "pid_of", "states", "until", "worker_events"]

# How long what must come may take; only what fails ever waits that long.
PATIENCE_S = 60.0
_LOOK_S = 0.02
# Channels of one process share connections unless told.
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

T = TypeVar("T")


def until(condition: Callable[[], T]) -> T:
    """Returns what `condition` does, as soon as that is true."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, "it did not come true"
        time.sleep(_LOOK_S)
    return found


def info(address: str) -> pb.GetServerInfoResponse:
    """Asks whoever a connection of its own to `address` reaches."""
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        answer: pb.GetServerInfoResponse = MseGradServiceStub(channel).GetServerInfo(
            pb.GetServerInfoRequest(), timeout=PATIENCE_S, wait_for_ready=True
        )
        return answer


def states(address: str) -> list[tuple[str, str, str]]:
    """Returns address, device and state of each worker, as whoever is at `address` says."""
    names = {number: name.removeprefix("WORKER_STATE_").lower() for name, number in pb.WorkerState.items()}
    return [(at.address, at.device, names[at.state]) for at in info(address).endpoints]


def compute(address: str, *, elements: int = 1000, timeout_s: float = PATIENCE_S) -> None:
    """Has one gradient computed by whoever a plain client reaches at `address`; compares every bit."""
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
    """Returns the process of a worker."""
    return int(worker_events(host, "worker_started", worker)[-1]["pid"])
