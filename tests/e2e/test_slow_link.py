"""A slow and lossy link between client and server: right answers, and deadlines that hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.server.separate_hosts import Host, Hosts
from support.server.server_process import running_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="network namespaces need Linux")]

PORT = 50051
# Answers each line of JSON, a list of options and pairs of elements and time-out, with the outcomes in the order in
# which the calls ended. The calls of one line are made at the same time.
CALLER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from mse_grad_client import ClientOptions, MseGradClient, MseGradError
from support.values import expected, operands

def outcome(client, elements, timeout_s):
    given = operands((elements,), seed=elements)
    try:
        y = client.compute(*given, timeout_s=timeout_s)
    except MseGradError as error:
        return [elements, type(error).__name__, str(error)]
    return [elements, "right" if y.tobytes() == expected(*given).tobytes() else "wrong", ""]

options = ClientOptions(**json.loads(sys.argv[2]))
with MseGradClient(sys.argv[1], options=options) as client, ThreadPoolExecutor(8) as pool:
    for line in sys.stdin:
        calls = [pool.submit(outcome, client, *call) for call in json.loads(line)]
        print(json.dumps([call.result() for call in as_completed(calls)]), flush=True)
"""
PATIENT_S = 120.0


class Caller:
    """A client on another host."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def make(self, *calls: tuple[int, float]) -> list[list[Any]]:
        """Makes calls at the same time; returns elements, outcome and message of each, in the order of their ends.

        Args:
            calls: Elements and time-out of each.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(calls), file=self._process.stdin, flush=True)
        outcomes: list[list[Any]] = json.loads(self._process.stdout.readline())
        return outcomes


@contextmanager
def far_away(*, delay_s: float, loss: float = 0.0, bytes_per_s: float = 0.0, **options: object) -> Iterator[Caller]:
    """Runs a server and a client with a slow link between them within the `with`.

    Args:
        delay_s: Time that a packet takes each way.
        loss: Share of the packets that are lost, each way.
        bytes_per_s: Rate of the link each way; 0 for no bound.
        options: ClientOptions of the client.
    """
    with Hosts() as hosts:
        host = hosts.add_far_away(delay_s=delay_s, loss=loss, bytes_per_s=bytes_per_s)
        with serving(host), calling(hosts.client, f"{host.ip}:{PORT}", options) as caller:
            yield caller


def serving(host: Host) -> Any:
    """Runs a server on `host` within the `with`."""
    return running_server(
        "--insecure-listen", listen=f"{host.ip}:{PORT}", metrics_listen="127.0.0.1:9464", prefix=host.command()
    )


@contextmanager
def calling(host: Host, address: str, options: dict[str, object]) -> Iterator[Caller]:
    """Runs a client on `host` within the `with`."""
    command = host.command(sys.executable, "-c", CALLER, address, json.dumps(options))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Caller(process)


def outcomes(made: list[list[Any]]) -> list[list[Any]]:
    """Returns elements and outcome of each call, by their elements."""
    return sorted(made_one[:2] for made_one in made)


@pytest.mark.parametrize("direct", [False, True], ids=["stream", "direct"])
def test_gradients_over_a_slow_lossy_link_are_right(direct: bool) -> None:
    with far_away(delay_s=0.03, loss=0.02, bytes_per_s=4e6, direct=direct) as caller:
        for _ in range(3):
            made = caller.make((1, PATIENT_S), (1000, PATIENT_S), (30_000, PATIENT_S), (200_000, PATIENT_S))
            assert outcomes(made) == [[1, "right"], [1000, "right"], [30_000, "right"], [200_000, "right"]]


@pytest.mark.parametrize("direct", [False, True], ids=["stream", "direct"])
def test_a_deadline_that_is_shorter_than_the_link_ends_its_call_alone(direct: bool) -> None:
    with far_away(delay_s=1.5, direct=direct) as caller:
        assert outcomes(caller.make((10, PATIENT_S))) == [[10, "right"]]
        # An answer takes 3 s, so the first to end is the call that has no time for it.
        first, second = caller.make((1000, 0.5), (2000, PATIENT_S))
        assert first[:2] == [1000, "DeadlineExceeded"]
        assert second[:2] == [2000, "right"]
        assert outcomes(caller.make((1000, PATIENT_S))) == [[1000, "right"]]


def test_a_deadline_that_ends_in_the_upload_leaves_the_link_to_other_calls() -> None:
    # 12 MB for an upload in 12 s.
    with far_away(delay_s=0.02, bytes_per_s=1e6) as caller:
        assert outcomes(caller.make((10, PATIENT_S))) == [[10, "right"]]
        (made,) = caller.make((1_000_000, 1.0))
        assert made[:2] == [1_000_000, "DeadlineExceeded"]
        assert outcomes(caller.make((1000, PATIENT_S))) == [[1000, "right"]]
