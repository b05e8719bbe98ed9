"""A Ray cluster of two nodes in this process's own network, with the application of deploy/ray.

`python -m support.deploy.ray_cluster REPORT` runs in an environment with Ray (`ray_environment` makes it). It makes
calls through both proxies, loads the cluster until it grows, kills one node under load, and writes what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from google.rpc import error_details_pb2, status_pb2
from ray import serve
from ray.cluster_utils import Cluster

from mse_grad.methods import COMPUTE_GRADIENT, STREAM_GRADIENTS, full_name
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from mse_grad_client import ClientOptions, MseGradClient, MseGradError
from support.values import expected, operands

__all__ = ["DIRECT", "HEAD", "WORKER", "cluster", "direct_server", "serving", "until_answers"]

HEAD, WORKER = "127.0.0.1:50051", "127.0.0.1:50052"
"""Addresses of the two nodes' proxies; those of real nodes differ in the host."""

DIRECT = "127.0.0.1:50061"
"""Address of a server without Ray, for comparison."""

_CONFIG = Path(__file__).parents[3] / "deploy/ray/serve.yaml"
_PATIENCE_S = 60.0
_CALLERS = 12
_CALLS_AFTER_KILL = 100
_BEGAN_S = time.monotonic()


@contextmanager
def cluster(*, nodes: int = 2) -> Iterator[list[Any]]:
    """Runs a cluster of nodes with two CPUs each; yields them, the head first."""
    options = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 2**28, "resources": {"NPU": 2}}
    made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    os.environ["RAY_ADDRESS"] = made.address
    # Two nodes of one machine cannot listen on the same ports.
    os.environ["RAY_SERVE_WORKER_PROXY_GRPC_PORT"] = WORKER.rpartition(":")[2]
    os.environ["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = "8001"
    try:
        yield [made.head_node, *(made.add_node(**options) for _ in range(nodes - 1))]
    finally:
        ray.shutdown()  # of this process; a node with its driver cannot be removed
        made.shutdown()


@contextmanager
def serving() -> Iterator[None]:
    """Runs the application with the configuration of deploy/ray."""
    program = Path(sys.executable).with_name("serve")
    with subprocess.Popen([str(program), "run", str(_CONFIG)], stdin=subprocess.DEVNULL) as running:
        try:
            yield
        finally:
            running.terminate()


@contextmanager
def direct_server() -> Iterator[None]:
    """Runs a server without Ray."""
    command = [sys.executable, "-m", "mse_grad_server", "--listen", DIRECT, "--metrics-listen", "none"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield
        finally:
            running.terminate()


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Waits until `condition` is true, of which Ray tells by no event; raises with `what` if that takes long."""
    end_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(what())
        time.sleep(0.1)


def until_answers(address: str) -> None:
    """Waits until a server or replica answers at `address`."""

    def answers() -> bool:
        try:
            with MseGradClient(address) as client:
                client.server_info(timeout_s=5)
        except MseGradError:
            return False
        return True

    until(answers, lambda: f"nothing answers at {address}")


def running_replicas() -> int:
    """Returns the number of replicas that serve."""
    application = serve.status().applications.get("mse-grad")
    if application is None:
        return 0
    return int(application.deployments["MseGrad"].replica_states.get("RUNNING", 0))


def npus_seen() -> list[str]:
    """Returns the NPUs that a process with one NPU may use, and that one with two may, as CANN reads them."""
    ray.init(ignore_reinit_error=True, log_to_driver=False)

    def seen() -> str:
        return os.environ["ASCEND_RT_VISIBLE_DEVICES"]

    def seen_with(count: int) -> str:
        return str(ray.get(ray.remote(num_cpus=0, resources={"NPU": count})(seen).remote()))

    return [seen_with(1), seen_with(2)]


def open_streams() -> int:
    """Returns the most streams that a replica has open, of the replicas that some calls reach."""
    with grpc.insecure_channel(HEAD) as channel:
        ask: Any = MseGradServiceStub(channel).GetServerInfo
        answers = [ask(pb.GetServerInfoRequest(), timeout=_PATIENCE_S) for _ in range(20)]
    return max(int(answer.load.open_streams) for answer in answers)


def gradients_compared() -> dict[str, int]:
    """Computes through each proxy and method; returns the number of gradients, and of those with other bits."""
    count = different = 0
    for address in (HEAD, WORKER):
        with MseGradClient(address, options=ClientOptions(timeout_s=_PATIENCE_S)) as client:
            for method, dtype, reduction, n in product(
                (client.compute, client.compute_unary),
                (FLOAT16, BFLOAT16, FLOAT32, FLOAT64),
                ("none", "sum", "mean"),
                (1, 1000, 300_000),
            ):
                case = operands((n,), dtype)
                count += 1
                different += method(*case, reduction).tobytes() != expected(*case, reduction).tobytes()
    return {"gradients": count, "different": different}


def refusals(address: str) -> list[Any]:
    """Makes calls that break the contract; returns the statuses that the caller reads, without their request ids."""
    good, short = (pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=bytes(size)) for size in (12, 8))
    unequal = pb.ComputeGradientRequest(predict=good, label=short, dout=good, reduction=pb.REDUCTION_SUM)
    unknown = pb.ComputeGradientRequest(predict=good, label=good, dout=good)
    chunk = pb.StreamGradientsRequest(chunks=[pb.GradientChunk(id=1)])
    garbage = b"\xff\xff"
    with grpc.insecure_channel(address) as channel:
        unary: Any = channel.unary_unary(full_name(COMPUTE_GRADIENT))
        stream: Any = channel.stream_stream(full_name(STREAM_GRADIENTS))
        statuses = [
            _status(lambda message=message: unary(message, timeout=_PATIENCE_S))  # type: ignore[misc]
            for message in (unequal.SerializeToString(), unknown.SerializeToString(), garbage)
        ]
        statuses.append(_status(lambda: list(stream(iter([garbage]), timeout=_PATIENCE_S))))
        answers = b"".join(stream(iter([chunk.SerializeToString()]), timeout=_PATIENCE_S))
    statuses += [_text(error.status) for error in pb.StreamGradientsResponse.FromString(answers).errors]
    return statuses


def _status(call: Callable[[], object]) -> Any:
    try:
        call()
    except grpc.RpcError as error:
        (details,) = (entry.value for entry in error.trailing_metadata() if entry.key == "grpc-status-details-bin")
        return [error.code().name, error.details(), *_text(status_pb2.Status.FromString(details))]
    return "accepted"


def _text(status: status_pb2.Status) -> list[str]:
    told = [str(status.code), status.message]
    for detail in status.details:
        info, broken = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            told += [info.reason, info.domain]
        elif detail.Unpack(broken):
            told += [violation.field for violation in broken.field_violations]
    return told


class Load:
    """Callers that compute until they are told to stop.

    Args:
        addresses: Addresses of each caller's client.
    """

    def __init__(self, addresses: list[str]) -> None:
        self.failures: list[dict[str, Any]] = []
        self.calls = [0] * _CALLERS
        self.different = 0
        self._addresses = addresses
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(_CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        case = operands((20_000,), seed=number)
        right = expected(*case).tobytes()
        # Every second caller makes unary calls, which Ray spreads; the others keep a stream each.
        kind = ("stream", "unary")[number % 2]
        with MseGradClient(self._addresses, options=ClientOptions(timeout_s=_PATIENCE_S)) as client:
            method = client.compute_unary if kind == "unary" else client.compute
            while not self._stopping.is_set():
                try:
                    gradient = method(*case)
                except MseGradError as error:
                    self.failures.append({"kind": kind, "error": type(error).__name__, "message": str(error)[:200]})
                else:
                    self.calls[number] += 1
                    self.different += gradient.tobytes() != right


def processes_of(node: Any) -> list[psutil.Process]:
    """Returns the raylet of a node and every process that it started."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def kill_node(node: Any) -> None:
    """Kills every process of a node at once."""
    for process in processes_of(node):
        process.kill()


def kill_replica(node: Any) -> None:
    """Kills the process of one replica of a node."""
    next(process for process in processes_of(node) if "ServeReplica" in "".join(process.cmdline())).kill()


def killed_under(load: Load, kill: Callable[[], None]) -> dict[str, Any]:
    """Calls `kill`, waits until each caller has many more answers, and returns the failures until then."""
    before, failed_before = list(load.calls), len(load.failures)
    kill()
    until(
        lambda: all(now >= was + _CALLS_AFTER_KILL for now, was in zip(load.calls, before, strict=True)),
        lambda: f"callers hang: {load.calls}, {before}, {load.failures[-3:]}",
    )
    until(lambda: running_replicas() == 2, lambda: "no other replica starts")
    return {"failures_before": failed_before, "failures": load.failures[failed_before:]}


def main() -> None:
    """Writes the report."""
    report: dict[str, Any] = {}
    with direct_server(), cluster() as (head, node), serving():
        for address in (DIRECT, HEAD, WORKER):
            until_answers(address)
        until(lambda: running_replicas() == 2, lambda: "the replicas do not start")
        _say("two replicas run")
        report["npus"] = npus_seen()
        report["bits"] = gradients_compared()
        report["refusals"] = {"direct": refusals(DIRECT), "ray": refusals(HEAD)}
        until(lambda: open_streams() == 0, lambda: "streams outlive their clients")
        _say("compared")
        with Load([HEAD, WORKER]) as load:
            until(lambda: running_replicas() > 2, lambda: "the application does not grow")
            _say("grown")
            report["node"] = killed_under(load, lambda: kill_node(node))
            _say("callers go on without the node")
            report["replica"] = killed_under(load, lambda: kill_replica(head))
            _say("callers go on without the replica")
        report.update(callers=_CALLERS, calls=sum(load.calls), different=load.different)
    _say("ended")
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1), encoding="utf-8")


def _say(what: str) -> None:
    print(f"{time.monotonic() - _BEGAN_S:.1f} s: {what}", flush=True)


if __name__ == "__main__":
    main()
