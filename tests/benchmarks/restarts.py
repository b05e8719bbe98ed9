"""Restarts of a supervised server of two workers under load, which print every broken promise of a drain.

The promises: every request with an id up to GoAway's `last_id` is answered before its stream ends, and no SDK call
fails or takes longer than its bound. If a call waits for long, the stacks of all threads go to stderr.

`make restarts`, or `PYTHONPATH=tests .venv/bin/python -m benchmarks.restarts --restarts 20`. With `--backend ascend`
the workers have simulated NPUs.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue

import grpc

from mse_grad.codec import Chunk, Header, decode_stream_response, encode_stream_request
from mse_grad.reasons import Reason
from mse_grad.tensor import FLOAT32, Reduction
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import ClientOptions, MseGradClient, MseGradError
from support.server.backends import ascend_flags
from support.server.host_process import info, pid_of, worker_events
from support.server.raw_stream import reason_of
from support.server.server_process import ServerProcess
from support.values import expected, operands
from support.waiting import PATIENCE_S

__all__ = ["CALLERS", "Report", "restart_under_load"]

_WORKERS = {"cpu": ("cpu:0", "cpu:1"), "ascend": ("npu:0", "npu:1")}
# Covers a drain of 30 s, the start of the next server, and the SDK's retries.
CALL_TIMEOUT_S = 60.0
# How far a caller may exceed its bound on a machine that also does other work.
_GRACE_S = 15.0
_RAW_STREAMS = 4
# The SDK callers: two transports, each with calls with and without a time limit.
_CLIENTS = {"shared": ClientOptions(), "tcp": ClientOptions(shared_memory=False)}
_CALLS = ((1000, CALL_TIMEOUT_S), (1001, None), (200_000, CALL_TIMEOUT_S), (200_001, None))
CALLERS = 1 + len(_CLIENTS) * len(_CALLS)
"""Kinds of callers that are counted: the raw streams as one, and each of the SDK."""
# Number of requests that a raw stream keeps open.
_OPEN_REQUESTS = 8
_LOOK_S = 0.02
# Elements of a request and number of its chunks: computed in the event loop, cut in two, computed in a thread.
_KINDS = ((1000, 1), (2000, 2), (200_000, 1), (400_000, 2))
_STREAM = "/mse_grad.v1.MseGradService/StreamGradients"


@dataclass
class Report:
    """The result of a run.

    Attributes:
        restarts: Drains that were begun.
        answered: Requests with the right gradient, by kind of caller.
        broken: Broken promises, one line each.
        longest_call_s: Duration of the longest SDK call.
        longest_drain_s: Duration of the longest drain.
        streams: Raw streams that ended with GoAway.
    """

    restarts: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    longest_call_s: float = 0.0
    longest_drain_s: float = 0.0
    streams: int = 0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} by {caller}" for caller, count in sorted(self.answered.items()))
        return (
            f"{self.restarts} drains, longest {self.longest_drain_s:.1f} s; longest call {self.longest_call_s:.1f} s; "
            f"{self.streams} raw streams told to go away; gradients: {counts}; promises broken: {len(self.broken)}"
        )


class _Load:
    """Callers in threads, until `stop`."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.began_s: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def begin(self, address: str) -> None:
        """Starts raw streams and callers of the SDK, in shared memory and over TCP."""
        for number in range(_RAW_STREAMS):
            self._start(f"raw-{number}", self._raw, address)
        for name, options in _CLIENTS.items():
            for elements, timeout_s in _CALLS:
                self._start(f"{name}-{elements}", self._compute, address, options, elements, timeout_s)
        self._start("watchdog", self._watch)

    def stop(self) -> None:
        """Stops the callers; a caller that does not end is a broken promise."""
        self.stopping.set()
        give_up_s = time.monotonic() + CALL_TIMEOUT_S + 2 * _GRACE_S
        for thread in self._threads:
            thread.join(max(0.0, give_up_s - time.monotonic()))
            if thread.is_alive():
                self.break_promise(f"{thread.name} hangs")
                faulthandler.dump_traceback(all_threads=True)

    def break_promise(self, what: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {what}"
        print(line, file=sys.stderr, flush=True)
        with self.lock:
            self.report.broken.append(line)

    def count(self, caller: str) -> None:
        with self.lock:
            self.report.answered[caller] += 1

    def answered(self) -> Counter[str]:
        with self.lock:
            return self.report.answered.copy()

    def _start(self, name: str, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=(name, *arguments) if arguments else (), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _compute(
        self, caller: str, address: str, options: ClientOptions, elements: int, timeout_s: float | None
    ) -> None:
        given = operands((elements,))
        bits = expected(*given).tobytes()
        with MseGradClient(address, options=options) as client:
            while not self.stopping.is_set():
                began_s = time.monotonic()
                with self.lock:
                    self.began_s[caller] = began_s
                try:
                    y = client.compute(*given, timeout_s=timeout_s)
                except MseGradError as error:
                    self.break_promise(f"{caller} failed after {time.monotonic() - began_s:.1f} s: {error!r}")
                    continue
                finally:
                    took_s = time.monotonic() - began_s
                    with self.lock:
                        del self.began_s[caller]
                        self.report.longest_call_s = max(self.report.longest_call_s, took_s)
                if y.tobytes() != bits:
                    self.break_promise(f"{caller} got wrong bits")
                if took_s > CALL_TIMEOUT_S + _GRACE_S:
                    self.break_promise(f"{caller} took {took_s:.1f} s")
                self.count(caller)

    def _watch(self) -> None:
        """Prints all stacks once for each call that waits too long."""
        told: set[float] = set()
        while not self.stopping.wait(1.0):
            with self.lock:
                running = dict(self.began_s)
            for caller, began_s in running.items():
                if time.monotonic() - began_s > CALL_TIMEOUT_S / 2 and began_s not in told:
                    told.add(began_s)
                    print(f"{caller} waits for {CALL_TIMEOUT_S / 2:.0f} s:", file=sys.stderr, flush=True)
                    faulthandler.dump_traceback(all_threads=True)

    def _raw(self, caller: str, address: str) -> None:
        rng = random.Random(caller)
        while not self.stopping.is_set():
            try:
                endpoints = [endpoint.address for endpoint in info(address).endpoints]
            except grpc.RpcError:
                self.stopping.wait(_LOOK_S)
                continue
            _RawStream(self, caller, rng.choice([address, *endpoints])).run()


class _RawStream:
    """One StreamGradients RPC that keeps several requests open and checks the promises of the server's GoAway."""

    def __init__(self, load: _Load, caller: str, address: str) -> None:
        self._load = load
        self._caller = caller
        self._address = address
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._open: dict[int, tuple[int, int]] = {}  # id -> kind, elements answered so far
        self._last_id = 0
        self._go_away: pb.GoAway | None = None
        self._go_away_s = 0.0

    def run(self) -> None:
        """Serves one stream until it ends."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(self._address, options=options) as channel:
            method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(_STREAM)
            call = method(iter(self._messages.get, None))
            was_opened = False
            try:
                for message in call:
                    was_opened = True
                    self._take(message)
                    if self._load.stopping.is_set() and self._go_away is None:
                        call.cancel()
                        return
            except grpc.RpcError as error:
                if was_opened and not self._load.stopping.is_set():
                    self._judge(error.code(), error.details() or "")
                return
            finally:
                self._messages.put(None)
            self._judge(grpc.StatusCode.OK, "")

    def _judge(self, code: grpc.StatusCode, details: str) -> None:
        load, go_away = self._load, self._go_away
        if go_away is None:
            load.break_promise(f"{self._caller}: the stream to {self._address} ended without GoAway: {code} {details}")
            return
        load.report.streams += 1
        lost = [id for id in self._open if id <= go_away.last_id]
        took_s = time.monotonic() - self._go_away_s
        if lost:
            load.break_promise(
                f"{self._caller}: {lost} of last_id {go_away.last_id} not answered, {took_s:.1f} s after GoAway; "
                f"{[self._open[id] for id in lost]}; {code} {details}"
            )
        elif code is not grpc.StatusCode.OK:
            load.break_promise(f"{self._caller}: all answered, but the stream ended with {code} {details}")

    def _take(self, message: bytes) -> None:
        response = decode_stream_response(message)
        for result in response.results:
            kind, received = self._open[result.id]
            elements, _ = _KINDS[kind]
            received += len(result.y) // FLOAT32.itemsize_bytes
            if result.y != _BITS[kind][FLOAT32.itemsize_bytes * result.offset :][: len(result.y)]:
                self._load.break_promise(f"{self._caller}: wrong bits in {result.id}")
            if received == elements:
                del self._open[result.id]
                self._load.count("raw")
            else:
                self._open[result.id] = kind, received
                self._messages.put(encode_stream_request((), [self._chunk(result.id, kind, received)], ()))
        for error in response.errors:
            del self._open[error.id]
            # A worker that is starting refuses requests too.
            is_refusal = error.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            if not is_refusal and reason_of(error.status) is not Reason.NOT_READY:
                self._load.break_promise(f"{self._caller}: request {error.id} failed: {error.status}")
        if response.go_away is not None:
            self._go_away, self._go_away_s = response.go_away, time.monotonic()
        if self._go_away is not None and not any(id <= self._go_away.last_id for id in self._open):
            self._messages.put(None)  # closes the client's side
        while self._go_away is None and len(self._open) < _OPEN_REQUESTS:
            self._begin()

    def _begin(self) -> None:
        self._last_id += 1
        id, kind = self._last_id, self._last_id % len(_KINDS)
        self._open[id] = kind, 0
        header = Header(id, FLOAT32.wire, (_KINDS[kind][0],), int(Reduction.MEAN))
        self._messages.put(encode_stream_request([header], [self._chunk(id, kind, 0)], ()))

    def _chunk(self, id: int, kind: int, offset: int) -> Chunk:
        elements, chunks = _KINDS[kind]
        part = slice(FLOAT32.itemsize_bytes * offset, FLOAT32.itemsize_bytes * (offset + elements // chunks))
        predict, label, dout = (memoryview(array)[part] for array in _OPERANDS[kind])
        return Chunk(id, offset, predict, label, dout)


_OPERANDS = [tuple(array.tobytes() for array in operands((elements,))) for elements, _ in _KINDS]
_BITS = [expected(*operands((elements,))).tobytes() for elements, _ in _KINDS]


def restart_under_load(
    restarts: int, *, host_every: int = 4, bound_s: float = math.inf, backend: str = "cpu"
) -> Report:
    """Restarts workers one at a time, and each `host_every`-th time the whole host; returns the result.

    Args:
        restarts: Number of restarts.
        host_every: Every how many restarts the whole host is restarted.
        bound_s: Seconds after which no further restart begins.
        backend: "cpu", or "ascend" on simulated NPUs.
    """
    report = Report()
    load = _Load(report)
    rng = random.Random(11)
    give_up_s = time.monotonic() + bound_s
    with ExitStack() as stack:
        host = _start("127.0.0.1:0", backend)
        stack.callback(lambda: host.stop() if host.process.poll() is None else None)
        load.begin(host.address)
        stack.callback(load.stop)
        _until_answered(load)
        for number in range(1, restarts + 1):
            if time.monotonic() > give_up_s:
                break
            time.sleep(rng.uniform(0, 0.2))
            began_s = time.monotonic()
            if number % host_every:
                worker = rng.choice(_WORKERS[backend])
                _restart_worker(host, worker, load)
            else:
                address = host.address
                host.process.send_signal(signal.SIGTERM)
                if not _is_over(host, load):
                    host.kill()
                else:
                    host.stop()
                report.longest_drain_s = max(report.longest_drain_s, time.monotonic() - began_s)
                host = _start(address, backend)
            report.restarts += 1
            _until_answered(load)
            if number % 10 == 0:
                print(f"{time.strftime('%H:%M:%S')} {report}", flush=True)
    return report


def _is_over(host: ServerProcess, load: _Load) -> bool:
    give_up_s = time.monotonic() + PATIENCE_S
    slow_s = time.monotonic() + 10
    while host.process.poll() is None:
        if time.monotonic() > slow_s:
            slow_s = math.inf
            load.break_promise("the host drains for 10 s")
            faulthandler.dump_traceback(all_threads=True)
        if time.monotonic() > give_up_s:
            load.break_promise(f"the host does not end: {host.log[-4000:]}")
            return False
        time.sleep(_LOOK_S)
    return True


def _restart_worker(host: ServerProcess, worker: str, load: _Load) -> None:
    ended, ready = (len(worker_events(host, event, worker)) for event in ("worker_ended", "ready"))
    began_s = time.monotonic()
    slow_s = began_s + 10
    os.kill(pid_of(host, worker), signal.SIGTERM)
    while len(worker_events(host, "worker_ended", worker)) == ended:
        if time.monotonic() > slow_s:
            slow_s = math.inf
            load.break_promise(f"{worker} drains for 10 s")
            faulthandler.dump_traceback(all_threads=True)
        assert time.monotonic() < began_s + PATIENCE_S, host.log[-4000:]
        time.sleep(_LOOK_S)
    load.report.longest_drain_s = max(load.report.longest_drain_s, time.monotonic() - began_s)
    while len(worker_events(host, "ready", worker)) == ready:
        assert time.monotonic() < began_s + 2 * PATIENCE_S, host.log[-4000:]
        time.sleep(_LOOK_S)


def _start(address: str, backend: str) -> ServerProcess:
    workers = _WORKERS[backend]
    flags: tuple[str, ...] = ("--workers", str(len(workers)))
    environment = {}
    if backend == "ascend":
        flags = (*ascend_flags(), "--devices", ",".join(name.removeprefix("npu:") for name in workers))
        environment["ASCEND_SIMULATOR_DEVICES"] = str(len(workers))
    host = ServerProcess("--listen", address, "--metrics-listen", "none", *flags, environment=environment)
    host.start()
    for worker in workers:
        host.wait_for_event("ready", worker=worker)
    host.wait_for_event("ready")
    return host


def _until_answered(load: _Load) -> None:
    """Waits until every caller has another answer; the watchdog reports a caller that gets none."""
    before = load.answered()
    give_up_s = time.monotonic() + CALL_TIMEOUT_S + 2 * _GRACE_S
    while len(answered := load.answered() - before) < CALLERS:
        if time.monotonic() > give_up_s:
            load.break_promise(f"only {sorted(answered)} got answers")
            return
        time.sleep(_LOOK_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the result; returns 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="restarts", description=__doc__)
    parser.add_argument("--restarts", type=int, default=300)
    parser.add_argument("--host-every", type=int, default=4, help="restart the host itself every so many restarts")
    parser.add_argument("--bound-s", type=float, default=math.inf, help="begin no restart after this many seconds")
    parser.add_argument("--backend", choices=tuple(_WORKERS), default="cpu", help="ascend: on simulated NPUs")
    given = parser.parse_args(arguments)
    report = restart_under_load(
        given.restarts, host_every=given.host_every, bound_s=given.bound_s, backend=given.backend
    )
    for line in report.broken:
        print(line)
    print(report)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
