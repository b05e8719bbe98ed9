"""Attacks without a token: the harm that 1 MiB on the wire does to a server and to its other callers (`make attacks`).

Each attack meets its own server, on loopback, and ends by itself. Meanwhile another client computes gradients of 1K
elements, one after another. Each attack yields four figures:

- memory: peak of the server's resident bytes above those before the attack
- stall: the longest time for which the server's event loop did not run; and busy: the processor time of its thread in
  that time. If the machine does other work when the command begins, only busy decides the exit code
- log: bytes that the server wrote
- wait: the longest time that a gradient of the other client took

Then the attack's connections are closed, and four figures say what the server has not released: resident memory,
threads, descriptors, mappings. Each attack runs three times, and these figures compare the state after the third run
with the state after the second: malloc keeps freed memory for the next message, and gRPC keeps threads, each with two
mappings, that it started while others waited for a core. Descriptors are also compared with those before the first run.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import numpy as np

from mse_grad.codec import Header, encode_stream_request
from mse_grad.tensor import FLOAT32, Reduction
from mse_grad_client import ClientOptions, MseGradClient
from support.resident import Held, peak_bytes, reset_peak, resident_bytes
from support.server.raw_http2 import Http2, compressed, framed, header_block, request_fields
from support.server.watched import WatchedServer, watched_server
from support.waiting import wait_until
from support.wire_messages import length_delimited

__all__ = ["ATTACKS", "BOUNDS", "INDEXED_BOUNDS", "Figures", "attacked"]

KIB, MIB = 2**10, 2**20
WIRE_BYTES = MIB
HEALTH, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
INFO = "/mse_grad.v1.MseGradService/GetServerInfo"
UNARY = "/mse_grad.v1.MseGradService/ComputeGradient"
STREAM = "/mse_grad.v1.MseGradService/StreamGradients"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
# The bytes that a connection sends besides its RPCs, and the head of a message.
_ROOM_BYTES = 4 * KIB
_CALLS_A_CONNECTION = 100
# How long the server is watched after the attack has sent everything.
_AFTERMATH_S = 2.0
_ROUNDS = 3
# How long the server may take to release the attack's resources.
_QUIET_S = 20.0
# The other client computes at least this many gradients, however slow the machine is.
_LEAST_ANSWERS = 20


NOTHING = Held(0, 0, 0, 0)


@dataclass(frozen=True)
class Figures:
    """The worst figures of an attack; bytes and seconds.

    Attributes:
        kept: The resources that the server holds afterwards, beyond those that it held before.
        busy_s: How long the thread of the event loop computed in one turn.
    """

    memory_bytes: int
    stall_s: float
    log_bytes: int
    wait_s: float
    kept: Held = NOTHING
    busy_s: float = 0.050
    sent_bytes: int = 0
    answered: int = 0

    def beyond(self, bounds: Figures) -> list[str]:
        """Returns the names of the figures that exceed their bounds."""
        pairs = {
            "memory": (self.memory_bytes, bounds.memory_bytes),
            "stall": (self.stall_s, bounds.stall_s),
            "busy": (self.busy_s, bounds.busy_s),
            "log": (self.log_bytes, bounds.log_bytes),
            "wait": (self.wait_s, bounds.wait_s),
            "kept memory": (self.kept.memory_bytes, bounds.kept.memory_bytes),
            "kept threads": (self.kept.threads, bounds.kept.threads),
            "kept descriptors": (self.kept.descriptors, bounds.kept.descriptors),
            "kept mappings": (self.kept.mappings, bounds.kept.mappings),
        }
        return [name for name, (value, bound) in pairs.items() if value > bound]


# Bounds on kept resources: the freed memory that malloc keeps differs by up to 16 MiB between runs; a flood
# holds 45 MiB; and gRPC may have started a thread for each core.
BOUNDS = Figures(64 * MIB, 0.050, MIB, 0.250, Held(20 * MIB, 2, 0, 4))
# Headers that HPACK names with one byte each. gRPC's core holds about 160 bytes for each, and Python an object, before
# the server can refuse the RPC. gRPC bounds them only once the client has acknowledged its settings.
INDEXED_BOUNDS = Figures(192 * MIB, 0.150, MIB, 0.250, Held(48 * MIB, 2, 0, 4), busy_s=0.150)


class Attacker:
    """The connections of an attack, which counts every byte that it sends."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        self._address = address
        self._stack = stack
        self._connections: list[Http2] = []

    @property
    def sent_bytes(self) -> int:
        return sum(connection.sent_bytes for connection in self._connections)

    @property
    def left_bytes(self) -> int:
        return WIRE_BYTES - self.sent_bytes

    def connect(self, *, window_bytes: int = 65535) -> Http2:
        connection = self._stack.enter_context(Http2(self._address, window_bytes=window_bytes))
        self._connections.append(connection)
        return connection

    def connect_silently(self) -> socket.socket:
        """Returns a connection on which nothing was said."""
        host, _, port = self._address.rpartition(":")
        return self._stack.enter_context(socket.create_connection((host, int(port)), timeout=20.0))

    def repeat(self, act: Callable[[Http2], object], *, cost_bytes: int) -> None:
        """Acts until the budget of bytes is spent, over a new connection whenever the server closes one.

        Args:
            act: What is done again and again.
            cost_bytes: The most bytes that it sends.
        """
        while self.left_bytes > cost_bytes + _ROOM_BYTES:
            link = self.connect()
            with suppress(ConnectionError):
                while self.left_bytes > cost_bytes + _ROOM_BYTES:
                    act(link)

    def calls(
        self,
        method: str,
        data: bytes = b"",
        *,
        most: int = 10_000,
        window_bytes: int = 65535,
        encoding: str = "",
        ends: bool = False,
    ) -> None:
        """Opens calls of `method` over as many connections as they need, until the budget of bytes is spent."""
        cost_bytes = len(data) + len(data) // (16 * KIB) * 9 + 250
        connection: Http2 | None = None
        for number in range(most):
            if self.left_bytes < cost_bytes + _ROOM_BYTES:
                return
            if connection is None or number % _CALLS_A_CONNECTION == 0:
                connection = self.connect(window_bytes=window_bytes)
            connection.open(method, data, encoding=encoding, ends=ends)


def stuffed(part: bytes, size_bytes: int = WIRE_BYTES - 16 * KIB) -> bytes:
    return framed(part * (size_bytes // len(part)))


def bad_headers(first: int, count: int) -> bytes:
    return framed(encode_stream_request([Header(id, 9, (), 0) for id in range(first, first + count)], []))


def errors(attacker: Attacker, *, window_bytes: int) -> None:
    streams = [(link, link.open(STREAM)) for link in (attacker.connect(window_bytes=window_bytes) for _ in range(8))]
    first = 1
    while attacker.left_bytes > _ROOM_BYTES + len(streams) * len(message := bad_headers(first, 500)):
        for link, number in streams:
            link.send(number, message)
        first += 500


def announce(attacker: Attacker) -> None:
    for _ in range(8):
        link = attacker.connect()
        for _ in range(8):
            headers = [Header(id, FLOAT32.wire, (2**40,), Reduction.MEAN) for id in range(1, 500)]
            link.open(STREAM, framed(encode_stream_request(headers, [])))


def silent_connections(attacker: Attacker) -> None:
    for _ in range(500):
        attacker.connect_silently()


def slow_writers(attacker: Attacker) -> None:
    """Calls that send one byte of their message at a time."""
    calls = []
    for _ in range(8):
        link = attacker.connect()
        calls += [(link, link.open(method)) for _ in range(16) for method in (UNARY, HEALTH, STREAM)]
    for byte in framed(bytes(100))[:20]:
        for link, number in calls:
            link.send(number, bytes((byte,)))
        time.sleep(0.05)


def wide_headers(attacker: Attacker, *, is_complete: bool) -> None:
    block = header_block([*request_fields(HEALTH), (b"x-wide", bytes(120) * KIB)])
    attacker.repeat(lambda link: link.open_wide(block, is_complete=is_complete), cost_bytes=len(block) + KIB)


def indexed_headers(attacker: Attacker) -> None:
    """Headers of one byte each: the index of a name and a value in HPACK's static table."""
    block = header_block(request_fields(HEALTH)) + b"\x90" * 15_000
    attacker.repeat(lambda link: link.open_wide(block), cost_bytes=len(block) + KIB)


def odd_paths(attacker: Attacker) -> None:
    fields = [(name, b"/\xff" if name == b":path" else value) for name, value in request_fields(HEALTH)]
    block = header_block(fields)
    attacker.repeat(lambda link: link.open_wide(block), cost_bytes=len(block) + 100)


def rapid_reset(attacker: Attacker, method: str, data: bytes = b"") -> None:
    attacker.repeat(lambda link: link.reset(link.open(method, data, is_indexed=True)), cost_bytes=300)


BOMB = compressed(bytes(128 * MIB))
# A ServerReflectionRequest with its field list_services.
LIST_SERVICES = framed(length_delimited(7, b"*"))
ATTACKS: dict[str, Callable[[Attacker], None]] = {
    "health: bombs of 128 MiB": lambda it: it.calls(HEALTH, BOMB, encoding="gzip"),
    "reflection: bombs of 128 MiB": lambda it: it.calls(REFLECTION, BOMB, encoding="gzip"),
    "GetServerInfo: bombs of 128 MiB": lambda it: it.calls(INFO, BOMB, encoding="gzip"),
    "unary: bombs of 60 MiB": lambda it: it.calls(UNARY, compressed(bytes(60 * MIB)), encoding="gzip"),
    "stream: bombs of 15 MiB": lambda it: it.calls(STREAM, compressed(bytes(15 * MIB)), encoding="gzip"),
    "unary: silent calls": lambda it: it.calls(UNARY),
    "health: half messages": lambda it: it.calls(HEALTH, framed(bytes(100))[:60]),
    "health: watches": lambda it: it.calls(WATCH, framed(b""), ends=True),
    "health: calls whose answers are not read": lambda it: it.calls(HEALTH, framed(b""), ends=True, window_bytes=0),
    "reflection: answers that are not read": lambda it: it.calls(REFLECTION, LIST_SERVICES, window_bytes=0),
    "stream: idle": lambda it: it.calls(STREAM),
    "stream: announced and not sent": announce,
    "stream: errors": lambda it: errors(it, window_bytes=2**31 - 1),
    "stream: errors that are not read": lambda it: errors(it, window_bytes=0),
    "stream: empty chunks": lambda it: it.calls(STREAM, stuffed(b"\x12\x00"), most=1),
    "stream: empty chunks, read slowly": lambda it: it.calls(STREAM, stuffed(b"\x12\x00\xa5\x06\0\0\0\0"), most=1),
    "stream: ids to cancel": lambda it: it.calls(STREAM, stuffed(b"\x18\x01"), most=1),
    "stream: a wide shape": lambda it: it.calls(
        STREAM, framed(length_delimited(1, length_delimited(3, b"\x01" * 1000 * KIB))), most=1
    ),
    "unary: a wide shape": lambda it: it.calls(
        UNARY, framed(length_delimited(1, length_delimited(2, b"\x01" * 1000 * KIB))), most=1
    ),
    "unary: refused": lambda it: it.calls(UNARY, framed(b"\xff" * 8 * KIB), ends=True),
    "a method that does not exist": lambda it: it.calls("/no.such/Method", ends=True),
    "paths that are no UTF-8": odd_paths,
    "health: rapid reset": lambda it: rapid_reset(it, HEALTH, framed(b"")),
    "unary: rapid reset": lambda it: rapid_reset(it, UNARY, framed(b"")),
    "stream: rapid reset": lambda it: rapid_reset(it, STREAM),
    "headers: 120 KiB wide": lambda it: wide_headers(it, is_complete=True),
    "headers: 120 KiB wide, not ended": lambda it: wide_headers(it, is_complete=False),
    "headers: one named 15,000 times": indexed_headers,
    "pings": lambda it: it.repeat(lambda link: link.ping(100), cost_bytes=1700),
    "changes of settings": lambda it: it.repeat(lambda link: link.change_settings(100), cost_bytes=1500),
    "connections: silent": silent_connections,
    "all methods: slow writers": slow_writers,
}


def attacked(attack: Callable[[Attacker], None], *flags: str, aftermath_s: float = _AFTERMATH_S) -> Figures:
    """Returns the worst figures of three runs of `attack` against a server that is started with `flags`."""
    with (
        watched_server(*flags) as server,
        MseGradClient(server.address, options=ClientOptions(shared_memory=False)) as client,
    ):
        ones = np.ones(1024, np.float32)
        for _ in range(50):
            client.compute(ones, ones, ones)
        began = before = server.held
        pool_bytes = 0
        rounds = []
        for number in range(1, _ROUNDS + 1):
            before = server.held
            pool_bytes = max(pool_bytes, before.memory_bytes)
            rounds.append(_attacked_once(attack, server, client, aftermath_s=aftermath_s))
            with suppress(AssertionError):  # the figures show it
                patience_s = _QUIET_S if number == _ROUNDS else _QUIET_S / 10
                wait_until(lambda before=before: is_given_back(server.held, before), patience_s=patience_s)  # type: ignore[misc]
        # The memory pool keeps more freed memory at one time than at another.
        kept = server.held - replace(before, memory_bytes=pool_bytes)
        return Figures(
            memory_bytes=max(each.memory_bytes for each in rounds),
            stall_s=max(each.stall_s for each in rounds),
            busy_s=max(each.busy_s for each in rounds),
            log_bytes=max(each.log_bytes for each in rounds),
            wait_s=max(each.wait_s for each in rounds),
            kept=replace(kept, descriptors=server.held.descriptors - began.descriptors),
            sent_bytes=max(each.sent_bytes for each in rounds),
            answered=min(each.answered for each in rounds),
        )


def _attacked_once(
    attack: Callable[[Attacker], None], server: WatchedServer, client: MseGradClient, *, aftermath_s: float
) -> Figures:
    ones = np.ones(1024, np.float32)
    waits: list[float] = []
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            began_s = time.monotonic()
            client.compute(ones, ones, ones)
            waits.append(time.monotonic() - began_s)
            done.wait(0.002)

    log_bytes, idle_bytes = server.log.stat().st_size, resident_bytes(server.pid)
    reset_peak(server.pid)
    other = threading.Thread(target=compute)
    with ExitStack() as stack:
        attacker = Attacker(server.address, stack)
        other.start()
        began_s = time.monotonic()
        try:
            attack(attacker)
        except ConnectionError:  # the server is allowed to close the connection
            pass
        finally:
            done.wait(aftermath_s)
            with suppress(AssertionError):  # the figures show it
                wait_until(lambda: len(waits) >= _LEAST_ANSWERS)
            done.set()
            other.join()
    during = server.stalls_between(began_s, time.monotonic())
    return Figures(
        memory_bytes=peak_bytes(server.pid) - idle_bytes,
        stall_s=max((stall_s for stall_s, _ in during), default=0.0),
        busy_s=max((busy_s for _, busy_s in during), default=0.0),
        log_bytes=server.log.stat().st_size - log_bytes,
        wait_s=max(waits),
        sent_bytes=attacker.sent_bytes,
        answered=len(waits),
    )


def is_given_back(now: Held, before: Held) -> bool:
    kept = now - before
    return (
        kept.threads <= 0
        and kept.descriptors <= 0
        and kept.mappings <= 0
        and kept.memory_bytes <= BOUNDS.kept.memory_bytes
    )


def main() -> int:
    """Prints the table; returns 1 if a figure exceeds its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the names of attacks (default: all attacks)")
    names = parser.parse_args().names
    is_quiet = os.getloadavg()[0] < 1
    if not is_quiet:
        print("the machine does other work: stall and wait are only shown")
    print(f"{'':80}  not given back")
    print(
        f"{'attack':42} {'sent':>8} {'memory':>9} {'stall':>6} {'busy':>6} {'log':>7} {'wait':>6} "
        f"{'memory':>9} threads descriptors mappings"
    )
    is_over = False
    for name, attack in ATTACKS.items():
        if names and not any(part in name for part in names):
            continue
        figures = attacked(attack)
        bounds = INDEXED_BOUNDS if attack is indexed_headers else BOUNDS
        over = figures.beyond(bounds if is_quiet else replace(bounds, stall_s=math.inf, wait_s=math.inf))
        is_over |= bool(over)
        kept = figures.kept
        print(
            f"{name:42} {figures.sent_bytes / KIB:4.0f} KiB {figures.memory_bytes / MIB:5.1f} MiB "
            f"{1e3 * figures.stall_s:3.0f} ms {1e3 * figures.busy_s:3.0f} ms {figures.log_bytes / KIB:3.0f} KiB "
            f"{1e3 * figures.wait_s:3.0f} ms {kept.memory_bytes / MIB:5.1f} MiB {kept.threads:7} "
            f"{kept.descriptors:11} {kept.mappings:8}  {', '.join(over)}",
            flush=True,
        )
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
