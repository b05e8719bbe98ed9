"""Calls over every transport with every kind of end, for hours: memory, threads and descriptors stay (`make soak`).

A round makes some calls of each pair of transport and end, in one client process against one server. After a fifth of
the rounds everything is warm. From then on neither process may grow by 1 MiB: the least memory of the last fifth is
compared with the least of the second, since malloc keeps more freed memory at one time than at another. Every answer
is compared bit for bit.

gRPC for Python never frees the memory of an operation that fails (docs/limits.md): 80 to 200 bytes for each RPC that is
cancelled or too late, on both sides. So for each such RPC 256 bytes are no growth. Some forked children hang in gRPC's
own handler (docs/failures.md); they are counted, and a promise is broken if they are more than one in a thousand.

`make soak` runs for two hours. `make soak ARGS="--calls 100000"` runs until each pair has had that many calls; a
reconnection counts as ten calls and a fork as a hundred, because they take as long. `--only direct cancelled` names
transports and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
import psutil

from mse_grad.open_inference import inference_pb2 as oip
from mse_grad.tensor import Array
from mse_grad_client import (
    AsyncMseGradClient,
    ClientOptions,
    DeadlineExceeded,
    MseGradClient,
    ResourceExhausted,
    RetryOptions,
)
from support.resident import LEAKED_BYTES, Held, held, unshared_bytes
from support.server.server_process import running_server
from support.values import expected, operands

__all__ = ["BOUND_BYTES", "ENDS", "MIB", "TRANSPORTS", "Report", "growth_bytes", "judge", "soak"]

KIB, MIB = 2**10, 2**20
BOUND_BYTES = MIB
"""Growth of a process that counts as none."""

TRANSPORTS: dict[str, ClientOptions] = {
    "stream": ClientOptions(shared_memory=False, direct=False),
    "direct": ClientOptions(shared_memory=False),
    "packets": ClientOptions(),
    "shared memory": ClientOptions(),
    "unary": ClientOptions(shared_memory=False, direct=False),
    "open inference": ClientOptions(),
}
ENDS = {"answered": 100, "refused": 50, "deadline": 50, "cancelled": 50, "reconnected": 5, "forked": 1}
"""Kinds of ends, and their calls in one round for each transport."""

# Pairs whose calls are RPCs that the caller gives up; a stream carries many calls.
_GIVEN_UP = {
    *((transport, end) for transport in ("unary", "open inference") for end in ("deadline", "cancelled")),
    *((transport, "forked") for transport in TRANSPORTS),
}
_COUNTS_AS = {"reconnected": 10, "forked": 100}
# Elements of a call; "large" is beyond --max-in-flight-bytes.
_SMALL, _SHARED, _LARGE = 1000, 20_000, 120_000
_FLAGS = (
    *("--max-in-flight-bytes", "1MiB", "--max-unary-bytes", "1MiB", "--max-stream-message-bytes", "1MiB"),
    *("--chunk-bytes", "64KiB", "--admission-wait-s", "0.001"),
)
_NO_RETRY = RetryOptions(max_attempts=1)
_BURST = 10
_REPORT_S = 10.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PATIENCE_S = 60.0


@dataclass
class Report:
    """The result of a run.

    Attributes:
        rounds: Rounds that were completed.
        calls: Calls, by transport and end.
        server_bytes: Memory of the server after each round.
        client_bytes: Memory of this process after each round.
        hung_forks: Forked children that hung.
        broken: Broken promises.
    """

    rounds: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    server_bytes: list[int] = field(default_factory=list)
    client_bytes: list[int] = field(default_factory=list)
    hung_forks: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def leaked_bytes(self) -> int:
        """Most bytes that gRPC has leaked since the first fifth of the rounds."""
        given_up = sum(count for pair, count in self.calls.items() if tuple(pair.split(", ")) in _GIVEN_UP)
        return 4 * LEAKED_BYTES * given_up // 5

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {sum(self.calls.values())} calls; grown: server "
            f"{growth_bytes(self.server_bytes) / MIB:+.2f} MiB of {self.server_bytes[-1] / MIB:.0f}, client "
            f"{growth_bytes(self.client_bytes) / MIB:+.2f} MiB of {self.client_bytes[-1] / MIB:.0f}; "
            f"forked children hung: {self.hung_forks}; promises broken: {len(self.broken)}"
        )


def growth_bytes(sizes: Sequence[int]) -> int:
    """Returns the growth from the second fifth to the last; 0 if there are too few sizes."""
    fifth = len(sizes) // 5
    return min(sizes[-fifth:]) - min(sizes[fifth : 2 * fifth]) if fifth else 0


def soak(
    *,
    seconds: float = math.inf,
    calls: float = math.inf,
    transports: Sequence[str] = tuple(TRANSPORTS),
    ends: Sequence[str] = tuple(ENDS),
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Makes calls until the time is over, or until each pair has had enough.

    Args:
        seconds: Duration.
        calls: Calls of each pair of transport and end.
        transports: Those of `TRANSPORTS`.
        ends: Those of `ENDS`.
        say: Takes a line about the progress.
    """
    report = Report()
    rounds = calls / min(ENDS[end] * _COUNTS_AS.get(end, 1) for end in ends)
    with running_server(*_FLAGS, metrics_listen="none") as server, ExitStack() as stack:
        server.keeps_log = False  # this process is measured
        callers = [stack.enter_context(_Caller(server.address, name, report)) for name in transports]
        began_s = said_s = time.monotonic()
        warm: tuple[Held, Held] | None = None
        while report.rounds < rounds and time.monotonic() - began_s < seconds:
            for caller in callers:
                for end in ends:
                    caller.calls(end)
            report.rounds += 1
            report.server_bytes.append(_tree_bytes(server.process.pid))
            report.client_bytes.append(unshared_bytes(os.getpid()))
            share = max((time.monotonic() - began_s) / seconds, report.rounds / rounds)
            if warm is None and share >= 0.2:
                warm = held(server.process.pid), held(os.getpid())
            if time.monotonic() - said_s >= _REPORT_S:
                said_s = time.monotonic()
                say(f"{time.strftime('%H:%M:%S')} {100 * share:.0f} %: {report}")
        judge(report, warm, (held(server.process.pid), held(os.getpid())))
    return report


def judge(report: Report, warm: tuple[Held, Held] | None, now: tuple[Held, Held]) -> None:
    """Adds the promises that memory, threads, descriptors or forks have broken to the report."""
    for name, sizes in (("server", report.server_bytes), ("client", report.client_bytes)):
        if (grown := growth_bytes(sizes)) >= BOUND_BYTES + report.leaked_bytes:
            leaked = f"gRPC leaked {report.leaked_bytes / MIB:.2f} MiB of it at most"
            report.broken.append(f"the {name} grew by {grown / MIB:.2f} MiB; {leaked}")
    forks = sum(count for pair, count in report.calls.items() if pair.endswith(", forked"))
    if report.hung_forks > 1 + forks // 1000:
        report.broken.append(f"{report.hung_forks} of {forks} forked children hung")
    for name, before, after in zip(("server", "client"), warm or now, now, strict=True):
        kept = after - before
        if kept.threads > 2 or kept.descriptors > 8:  # those of connections that are about to close
            report.broken.append(f"the {name} holds {kept.threads} threads and {kept.descriptors} descriptors more")


def _tree_bytes(pid: int) -> int:
    total = unshared_bytes(pid)
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(ProcessLookupError, FileNotFoundError):
            total += unshared_bytes(child.pid)
    return total


class _Caller:
    """The calls of one transport; a context manager."""

    def __init__(self, address: str, transport: str, report: Report) -> None:
        self._address = address
        self._transport = transport
        self._report = report
        self._rng = random.Random(transport)
        self._options = TRANSPORTS[transport]
        count = _SHARED if transport == "shared memory" else _SMALL
        self._given = operands((count,))
        self._right = expected(*self._given).tobytes()
        self._large = operands((_LARGE,))

    def __enter__(self) -> _Caller:
        self._stack = ExitStack()
        self._client = self._stack.enter_context(MseGradClient(self._address, options=self._options))
        hasty = replace(self._options, retry=_NO_RETRY)
        self._hasty = self._stack.enter_context(MseGradClient(self._address, options=hasty))
        self._runner = self._stack.enter_context(asyncio.Runner())
        self._tasks = AsyncMseGradClient(self._address, options=self._options)
        self._stack.callback(lambda: self._runner.run(self._tasks.close()))
        if self._transport == "shared memory":
            self._given = self._lent(self._client)
        channel: Any = self._stack.enter_context(grpc.insecure_channel(self._address))
        self._infer = channel.unary_unary(_INFER)
        self._message = _infer_message(self._given)
        self._large_message = _infer_message(self._large)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def calls(self, end: str) -> None:
        """Makes the calls of one round with this end."""
        if end == "forked" and self._transport == "open inference":  # gRPC's own channels do not outlive a fork
            return
        count = ENDS[end]
        if end == "cancelled" and self._transport != "open inference":
            self._runner.run(self._cancel(count))
        else:
            for _ in range(count):
                try:
                    getattr(self, f"_{end}")()
                except Exception as error:  # noqa: BLE001 - shown as a broken promise
                    self._break(f"{end}: {error!r}")
        self._report.calls[f"{self._transport}, {end}"] += count

    def _answered(self) -> None:
        self._check(self._compute(self._client))

    def _refused(self) -> None:
        if self._transport == "open inference":
            try:
                self._infer(self._large_message, timeout=_PATIENCE_S)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return
                raise
            self._break("a request beyond the bound was computed")
        elif self._transport in ("packets", "shared memory"):  # one at a time is never refused
            futures = [self._hasty.submit(*self._large, timeout_s=_PATIENCE_S) for _ in range(_BURST)]
            for future in futures:
                with suppress(ResourceExhausted):
                    future.result()
        else:
            with suppress(ResourceExhausted):
                self._compute(self._hasty, self._large)
                self._break("a request beyond the bound was computed")

    def _deadline(self) -> None:
        timeout_s = self._rng.uniform(1e-5, 1e-3)
        if self._transport == "open inference":
            try:
                self._infer(self._message, timeout=timeout_s)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
            return
        with suppress(DeadlineExceeded):
            self._check(self._compute(self._client, timeout_s=timeout_s))

    def _cancelled(self) -> None:
        future = self._infer.future(self._message, timeout=_PATIENCE_S)
        future.cancel()
        if not future.cancelled():
            future.result()

    async def _cancel(self, count: int) -> None:
        compute = self._tasks.compute_unary if self._transport == "unary" else self._tasks.compute
        for _ in range(count):
            task = asyncio.ensure_future(compute(*self._given, timeout_s=_PATIENCE_S))
            for _ in range(self._rng.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                self._check(await task)
            except asyncio.CancelledError:
                pass
            except Exception as error:  # noqa: BLE001 - shown as a broken promise
                self._break(f"cancelled: {error!r}")

    def _reconnected(self) -> None:
        if self._transport == "open inference":
            with grpc.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)]) as other:
                channel: Any = other
                channel.unary_unary(_INFER)(self._message, timeout=_PATIENCE_S)
            return
        with MseGradClient(self._address, options=self._options) as client:
            given = self._lent(client) if self._transport == "shared memory" else self._given
            for _ in range(2):
                self._check(self._compute(client, given))

    def _forked(self) -> None:
        self._check(self._compute(self._client))
        child = os.fork()
        if not child:
            code = 1
            with suppress(BaseException):
                code = int(self._compute(self._client).tobytes() != self._right)
            os._exit(code)
        self._check(self._compute(self._client))
        ended = os.pidfd_open(child)
        is_late = not select.select([ended], [], [], 2 * _PATIENCE_S)[0]
        os.close(ended)
        if is_late:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if is_late:
            self._report.hung_forks += 1
        elif status:
            self._break(f"a forked child ended with status {status}")

    def _compute(
        self, client: MseGradClient, given: tuple[Array, Array, Array] | None = None, *, timeout_s: float = _PATIENCE_S
    ) -> Array:
        if self._transport == "open inference":
            answer = oip.ModelInferResponse.FromString(self._infer(self._message, timeout=timeout_s))
            return np.frombuffer(answer.raw_output_contents[0], np.float32)
        compute = client.compute_unary if self._transport == "unary" else client.compute
        return compute(*(given or self._given), timeout_s=timeout_s)

    def _lent(self, client: MseGradClient) -> tuple[Array, Array, Array]:
        lent = tuple(client.empty(each.shape, np.float32) for each in self._given)
        for array, each in zip(lent, self._given, strict=True):
            array[...] = each
        return lent  # type: ignore[return-value]

    def _check(self, y: Array) -> None:
        if y.tobytes() != self._right:
            self._break("wrong bits")

    def _break(self, what: str) -> None:
        self._report.broken.append(f"{time.strftime('%H:%M:%S')} {self._transport}: {what}")


def _infer_message(given: tuple[Array, Array, Array]) -> bytes:
    request = oip.ModelInferRequest(model_name="mse_grad")
    for name, operand in zip(("predict", "label", "dout"), given, strict=True):
        request.inputs.add(name=name, datatype="FP32", shape=operand.shape)
        request.raw_input_contents.append(operand.tobytes())
    return request.SerializeToString()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the result; returns 0 if nothing grew and every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="duration; 120 unless --calls is given")
    parser.add_argument("--calls", type=int, help="calls of each pair of transport and end")
    parser.add_argument("--only", nargs="+", choices=(*TRANSPORTS, *ENDS), default=[], metavar="NAME")
    given = parser.parse_args(arguments)
    minutes = given.minutes if given.minutes is not None else math.inf if given.calls else 120.0
    report = soak(
        seconds=60 * minutes,
        calls=given.calls or math.inf,
        transports=[name for name in TRANSPORTS if name in given.only] or tuple(TRANSPORTS),
        ends=[name for name in ENDS if name in given.only] or tuple(ENDS),
        say=lambda line: print(line, flush=True),
    )
    for line in report.broken[:50]:
        print(line)
    for pair, count in sorted(report.calls.items()):
        print(f"{pair:32} {count:9}")
    print(report)
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
