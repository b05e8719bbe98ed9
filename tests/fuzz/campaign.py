"""Runs of the fuzzer: sessions in threads against one server, and the state of the server after them."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from fuzz.calls import infer_in_stream_session, infer_session, small_session, unary_session
from fuzz.doors import greeting_session, handover_session, http2_session
from fuzz.streams import TRANSPORTS, Tell, stream_session
from fuzz.verdicts import Wrong
from mse_grad_client import ClientOptions, MseGradClient
from support.resident import LEAKED_BYTES, Held
from support.server.watched import WatchedServer, watched_server
from support.values import expected, operands
from support.waiting import wait_until

__all__ = ["BOUNDS", "SURFACES", "Report", "fuzz"]

MIB = 2**20
BOUNDS = Held(memory_bytes=20 * MIB, threads=2, descriptors=0, mappings=6)
"""What a server may hold after a run beyond what it held when a tenth was done, as in benchmarks.attacks.

gRPC's leak comes on top: sessions end by giving up an RPC or two.
"""

# Surfaces, and the share of the sessions that attack them.
_SHARES = {
    **dict.fromkeys(TRANSPORTS, 4),
    "unary": 2,
    "infer": 2,
    "infer in stream": 1,
    "small": 3,
    "greeting": 1,
    "handover": 2,
    "http2": 1,
}
SURFACES = tuple(_SHARES)
_THREADS = 4
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
_REPORT_S = 5.0
# How long the server may take to release everything after the last session.
_QUIET_S = 20.0
# How many cases of a failed session are kept.
_KEPT_CASES = 12
# Beginnings of lines that gRPC itself logs: about metadata or a path that is no text, and about callers that are gone.
_OF_GRPC = (
    "Invalid encoding on",
    "Unexpected [UnicodeDecodeError] raised by servicer method [",
    "Failed sending error status from server",
)
_IDLE_METRICS = (
    "mse_grad_in_flight_requests",
    "mse_grad_in_flight_bytes",
    "mse_grad_open_streams",
    "mse_grad_shared_memory_segments",
    "mse_grad_shared_memory_bytes",
)


@dataclass
class Report:
    """The result of a run.

    Attributes:
        cases: Messages sent, by surface.
        failures: Broken promises, one text each, with their sessions.
        kept: Resources that the server holds afterwards, beyond those when a tenth of the run was done.
        longest_session_s: Duration of the longest session.
        longest_turn_s: The longest time that the thread of the server's event loop computed in one turn.
    """

    cases: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    kept: Held = field(default_factory=lambda: Held(0, 0, 0, 0))
    longest_session_s: float = 0.0
    longest_turn_s: float = 0.0

    @property
    def total(self) -> int:
        """Number of cases."""
        return sum(self.cases.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {surface}" for surface, count in sorted(self.cases.items()))
        return (
            f"{self.total} cases ({counts}); longest session {self.longest_session_s:.1f} s; longest turn of the event "
            f"loop {1e3 * self.longest_turn_s:.0f} ms; not given back: {self.kept.memory_bytes / MIB:.1f} MiB, "
            f"{self.kept.threads} threads, {self.kept.descriptors} descriptors, {self.kept.mappings} mappings; "
            f"promises broken: {len(self.failures)}"
        )


def fuzz(
    cases: int,
    *,
    seed: int = 1,
    session: int | None = None,
    surfaces: tuple[str, ...] = SURFACES,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Attacks a server with messages that are almost valid, and judges every answer.

    Args:
        cases: Number of messages.
        seed: Seed; it and the number of a session decide everything that the session sends.
        session: The one session to repeat.
        surfaces: Those of `SURFACES` to attack.
        folder: Where the cases of failed sessions are kept; None to keep none.
        say: Takes a line about the progress every five seconds.
    """
    # A client that is silent in the middle of a message is not the subject here.
    with watched_server("--stall-timeout-s", "600", metrics_listen="127.0.0.1:0") as server:
        run = _Run(server, cases, seed=seed, surfaces=surfaces, folder=folder)
        if session is not None:
            run.session(session, run.channel())
        else:
            run.all(say)
        run.finish()
    return run.report


class _Run:
    def __init__(
        self, server: WatchedServer, cases: int, *, seed: int, surfaces: tuple[str, ...], folder: Path | None
    ) -> None:
        self.report = Report()
        self._server = server
        self._most = cases
        self._seed = seed
        self._surfaces = surfaces
        self._folder = folder
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._channels: list[grpc.Channel] = []
        self._address = server.address
        self._warm: Held | None = None
        self._began_s = time.monotonic()

    def channel(self) -> grpc.Channel:
        """Returns a connection of its own."""
        channel = grpc.insecure_channel(self._address, options=_OPTIONS)
        self._channels.append(channel)
        return channel

    def all(self, say: Callable[[str], None]) -> None:
        """Runs sessions in threads until there are enough cases."""
        threads = [threading.Thread(target=self._work, args=(self.channel(),), daemon=True) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        said_s = self._began_s
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                total = self.report.total
                if self._warm is None and total > self._most / 10:
                    self._warm = self._server.held
                if time.monotonic() - said_s >= _REPORT_S:
                    said_s = time.monotonic()
                    per_s = total / (said_s - self._began_s)
                    say(
                        f"{time.strftime('%H:%M:%S')} {total} of {self._most} cases, {per_s:.0f} per second; "
                        f"promises broken: {len(self.report.failures)}"
                    )

    def session(self, number: int, channel: Any) -> None:
        """Runs one session."""
        rng = random.Random(f"{self._seed} {number}")
        surface = rng.choices(self._surfaces, [_SHARES[name] for name in self._surfaces])[0]
        sent: list[bytes] = []
        began_s = time.monotonic()

        def tell(case: bytes) -> None:
            sent.append(case)
            with self._lock:
                self.report.cases[surface] += 1

        try:
            _run_session(rng, surface, channel, self._address, tell)
        except Wrong as wrong:
            self._fail(f"session {number} ({surface}): {wrong}", number, sent)
        except Exception as error:  # noqa: BLE001 - of the fuzzer or of the server, it is shown with its session
            self._fail(f"session {number} ({surface}): {error!r}", number, sent)
        with self._lock:
            self.report.longest_session_s = max(self.report.longest_session_s, time.monotonic() - began_s)

    def finish(self) -> None:
        """Checks that the server answers right, and has released everything."""
        self._compute()
        for channel in self._channels:
            channel.close()
        before = self._warm or self._server.held
        leaked_bytes = LEAKED_BYTES * next(self._numbers)
        with suppress(AssertionError):  # the figures show it
            wait_until(lambda: not _beyond(self._server.held - before, leaked_bytes), patience_s=_QUIET_S)
        self.report.kept = self._server.held - before
        for name in _beyond(self.report.kept, leaked_bytes):
            self._note(f"the server has not released all {name}: {self.report.kept}")
        for name in _IDLE_METRICS:
            with suppress(AssertionError):
                wait_until(lambda name=name: self._server.metric(name) == 0, patience_s=_QUIET_S)  # type: ignore[misc]
            if value := self._server.metric(name):
                self._note(f"{name} is {value:g} after the last session")
        for line in self._server.events():
            if any(text in line.get("message", "") for text in _OF_GRPC):
                continue
            if line.get("level") in ("error", "critical") or line["event"] == "no JSON" or "exception" in line:
                self._note(f"the log has {str(line)[:1500]}")
        busy = [busy_s for _, busy_s in self._server.stalls_between(self._began_s, time.monotonic())]
        self.report.longest_turn_s = max(busy, default=0.0)

    def _work(self, channel: Any) -> None:
        while self.report.total < self._most:
            self.session(next(self._numbers), channel)

    def _compute(self) -> None:
        given = operands((1000,))
        right = expected(*given).tobytes()
        options = {
            "shared memory": ClientOptions(),
            "direct": ClientOptions(shared_memory=False),
            "stream": ClientOptions(shared_memory=False, direct=False),
        }
        for name, each in options.items():
            with MseGradClient(self._address, options=replace(each, timeout_s=30.0)) as client:
                for _ in range(20):
                    if client.compute(*given).tobytes() != right:
                        self._note(f"a wrong gradient over {name} afterwards")
                        break

    def _fail(self, text: str, number: int, sent: list[bytes]) -> None:
        self._note(text)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            lines = [f"# {text}".replace(os.linesep, " "), *(case.hex() for case in sent[-_KEPT_CASES:])]
            (self._folder / f"seed-{self._seed}-session-{number}.txt").write_text("\n".join(lines) + "\n", "utf-8")

    def _note(self, text: str) -> None:
        with self._lock:
            self.report.failures.append(text)


def _beyond(kept: Held, leaked_bytes: int) -> list[str]:
    pairs = {
        "memory": (kept.memory_bytes, BOUNDS.memory_bytes + leaked_bytes),
        "threads": (kept.threads, BOUNDS.threads),
        "descriptors": (kept.descriptors, BOUNDS.descriptors),
        "mappings": (kept.mappings, BOUNDS.mappings),
    }
    return [name for name, (value, bound) in pairs.items() if value > bound]


def _run_session(rng: random.Random, surface: str, channel: Any, address: str, tell: Tell) -> None:
    if surface in TRANSPORTS:
        stream_session(rng, channel, surface, tell)
    elif surface == "http2":
        http2_session(rng, address, tell)
    else:
        sessions = {
            "unary": unary_session,
            "infer": infer_session,
            "infer in stream": infer_in_stream_session,
            "small": small_session,
            "greeting": greeting_session,
            "handover": handover_session,
        }
        sessions[surface](rng, channel, tell)
