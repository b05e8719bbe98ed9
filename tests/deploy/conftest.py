"""A real Prometheus that scrapes real servers: one process, several workers, a simulated NPU with its exporter.

For `make image-test` also the image `cpu`, in a separate podman.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import start_http_server

from mse_grad.frames import head
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad.v1.mse_grad_pb2_grpc import MseGradServiceStub
from mse_grad_client import ClientOptions, DeadlineExceeded, MseGradClient, Unauthenticated
from support.deploy.podman import Podman, running_podman
from support.deploy.prometheus import Prometheus, running_prometheus
from support.server.backends import ascend_flags
from support.server.certificates import Authority
from support.server.host_process import pid_of
from support.server.server_process import ServerProcess, running_server
from support.tools import require_program
from support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
CHIP_VALUES = {"utilization": 80, "temperature": 60, "power": 250, "hbm_used_memory": 2000, "health_status": 1}


@dataclass(frozen=True)
class Watched:
    """Servers and the Prometheus that scrapes them.

    Attributes:
        prometheus: Scrapes the servers every second.
        load: Makes each server compute a little, refuse a call, and miss a deadline.
    """

    prometheus: Prometheus
    load: Callable[[], None]


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    require_program("prometheus")
    folder = tmp_path_factory.mktemp("watched")
    # The first kernels verify the start; after them two kernels fail, and the device is repaired.
    faults = ";".join(f"aclnnMseLossGradPart code=507015 mode=async after={after}" for after in (60, 90))
    variables = {"ASCEND_SIMULATOR_FAULTS": faults, "ASCEND_SIMULATOR_DEVICES": "1"}
    with ExitStack() as opened:
        alone = opened.enter_context(running_server("--max-unary-in-flight", "1", "--output-sample-every", "10"))
        ca, tokens = Authority(folder), folder / "tokens"
        tokens.write_text("a-token-that-is-long-enough\n")
        guards = (*ca.issue("server").flags, "--token-file", str(tokens))
        access = ClientOptions(tls_ca=ca.certificate, token_file=tokens)
        host = opened.enter_context(running_server("--workers", "2", "--ready-when", "all", *guards))
        npu_flags = (*ascend_flags(), "--devices", "0", "--fallback", "cpu")
        npu = opened.enter_context(running_server(*npu_flags, environment=variables))
        ours = {"alone": alone.metrics_address, "host": host.metrics_address, "npu": npu.metrics_address}
        exporter = opened.enter_context(_ChipExporter())
        targets = {"mse-grad": ours, "npu-exporter": {"npu": exporter.address}}
        prometheus = opened.enter_context(running_prometheus(folder, targets))
        reached = ((alone, None), (host, access), (npu, None))
        clients = [opened.enter_context(MseGradClient(at.address, options=options)) for at, options in reached]
        without_token = replace(access, token_file=None)
        stranger = opened.enter_context(MseGradClient(host.address, options=without_token))

        def load() -> None:
            for client in clients:
                _compute(client)
            _be_refused(alone)
            _be_a_stranger(alone)
            with pytest.raises(Unauthenticated):
                stranger.compute(np.ones(3), np.ones(3), 1.0)

        load()
        os.kill(pid_of(host, "cpu:1"), signal.SIGKILL)
        yield Watched(prometheus, load)


@dataclass(frozen=True)
class Image:
    """An image as `make image` built it.

    Attributes:
        tag: Its name.
        base: Name of its base image.
        contents: The list of its contents.
    """

    tag: str
    base: str
    contents: Path


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with running_podman() as opened:
        yield opened


@pytest.fixture(scope="session")
def debian(podman: Podman) -> str:
    """Name of the base image: DEBIAN_IMAGE, or the image that `make image-test` builds with debootstrap."""
    given = os.environ.get("DEBIAN_IMAGE")
    if not given:
        given = "localhost/debian:bookworm"
        podman.run("import", str(ROOT / "build/debian.tar"), given)
    return given


@pytest.fixture(scope="session")
def image(podman: Podman, debian: str) -> Image:
    return make_image(podman, "cpu", debian, f"--build-arg=DEBIAN_IMAGE={debian}")


def make_image(podman: Podman, target: str, base: str, *flags: str) -> Image:
    """Runs `make image` for a target of the Dockerfile."""
    tag = f"localhost/mse-grad:{target}"
    all_flags = shlex.join([*podman.build_flags, *flags])
    given = {
        "VENV": sys.prefix,
        "CONTAINER_TOOL": "podman",
        "TARGET": target,
        "IMAGE": tag,
        "IMAGE_FLAGS": all_flags,
    }
    made = podman.succeed(
        "make", "--no-print-directory", "image", *(f"{name}={value}" for name, value in given.items()), cwd=ROOT
    )
    assert tag in made
    return Image(tag, base, ROOT / "build" / ("image.cdx.json" if target == "cpu" else f"image-{target}.cdx.json"))


class _ChipExporter:
    """Serves the metrics of npu-exporter for one chip, with its names and units."""

    def __enter__(self) -> _ChipExporter:
        registry = CollectorRegistry()
        for name, value in {**CHIP_VALUES, "hbm_total_memory": 64000}.items():
            gauge = Gauge(f"npu_chip_info_{name}", name, ["id", "model_name"], registry=registry)
            gauge.labels("0", "910B3").set(value)
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry=registry)
        self.address = f"127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _compute(client: MseGradClient) -> None:
    for _ in range(10):
        client.compute(np.ones(1000, np.float32), np.zeros(1000, np.float32), 1.0, timeout_s=PATIENCE_S)
    shared = client.empty(1000)
    shared[:] = 1
    client.compute(shared, shared, 1.0, timeout_s=PATIENCE_S)
    large = np.ones(2**22, np.float32)
    with suppress(DeadlineExceeded):
        while True:  # the answer may come before a busy machine sees that the time is over
            client.compute(large, large, 1.0, timeout_s=0.0005)


def _be_refused(server: ServerProcess) -> None:
    """Makes four calls at a time, of which one is allowed, until one is rejected; each call has its own connection."""
    operand = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2**18], data=bytes(2**20))
    request = pb.ComputeGradientRequest(predict=operand, label=operand, dout=operand, reduction=pb.REDUCTION_SUM)

    def call(number: int) -> str:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.address, options=options) as channel:
            try:
                MseGradServiceStub(channel).ComputeGradient(request, timeout=PATIENCE_S)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    with ThreadPoolExecutor(4) as threads:
        codes = list(threads.map(call, range(16)))
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}


def _be_a_stranger(server: ServerProcess) -> None:
    """Opens a direct connection, and one for shared memory, without the secret of a stream; waits for both refusals."""
    host, _, port = server.event("ready")["direct_listen"].rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as stranger:
        stranger.sendall(head(0))
        assert stranger.recv(1)
    with grpc.insecure_channel(server.address) as channel:
        stream = MseGradServiceStub(channel).StreamGradients(iter(()), timeout=PATIENCE_S)
        name = next(stream).opened.shared_memory.socket_name
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.settimeout(PATIENCE_S)
            stranger.connect(f"\0{name}")
            stranger.send(pb.SharedMemoryHandover(secret=bytes(32), segments=[1]).SerializeToString())
            assert stranger.recv(1)
