"""Sessions before any stream: greetings of direct connections, handovers of memory, and HTTP/2 itself."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from fuzz.mutations import broken_bytes, mutated, odd_number, odd_text
from fuzz.peers import PATIENCE_S, Frames, Packets, connected, handover_socket, opened_rpc
from fuzz.samples import unary_request
from fuzz.streams import Tell
from fuzz.trees import tree_of
from fuzz.verdicts import Wrong, check_status, parsed
from mse_grad.frames import head
from mse_grad.v1 import mse_grad_pb2 as pb
from support.same_host.handover import SEALS
from support.server.raw_http2 import PREFACE, frame, framed, header_block

__all__ = ["greeting_session", "handover_session", "http2_session"]

_PATHS = (
    "/mse_grad.v1.MseGradService/ComputeGradient",
    "/mse_grad.v1.MseGradService/StreamGradients",
    "/mse_grad.v1.MseGradService/GetServerInfo",
    "/grpc.health.v1.Health/Check",
    "/",
    "",
)


def greeting_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Greets some direct connections wrongly, and perhaps one rightly; raises Wrong if the server breaks a promise."""
    with opened_rpc(channel) as (_, opened):
        right = pb.DirectGreeting(instance_id=opened.instance_id, secret=opened.direct.secret)
        for _ in range(rng.randint(1, 4)):
            tree = tree_of(right.SerializeToString(), pb.DirectGreeting.DESCRIPTOR)
            greeting = mutated(rng, tree, lambda: tree_of(right.SerializeToString(), pb.DirectGreeting.DESCRIPTOR))
            data = head(len(greeting) if rng.random() < 0.8 else odd_number(rng, len(greeting)) % 2**32) + greeting
            if rng.random() < 0.1:
                data = broken_bytes(rng, data)
            tell(data)
            with connected(opened) as frames:
                frames.send_raw(data)
                _finish(frames)
                _judge_greeting(frames)


def _finish(frames: Frames) -> None:
    with suppress(OSError):  # the server has closed the connection
        frames.socket.shutdown(socket.SHUT_WR)


def _judge_greeting(frames: Frames) -> None:
    """Reads to the end: nothing, a refusal, or the answers of a stream that was greeted rightly."""
    while (answer := frames.receive()) is not None:
        response = parsed(pb.StreamGradientsResponse, answer)
        if response is None:
            raise Wrong(f"a malformed answer: {answer[:200]!r}")
        if response.HasField("go_away"):
            check_status(response.go_away.status)
        elif not response.HasField("opened"):
            raise Wrong(f"an answer to no request: {response}")


@contextmanager
def _descriptors(rng: random.Random) -> Iterator[list[int]]:
    """Opens files, sockets and memory of every kind, good and bad."""
    with ExitStack() as stack:
        made: list[int] = []
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 16, 17, 40))):
            made += _descriptor(rng, stack)
        yield made


def _descriptor(rng: random.Random, stack: ExitStack) -> list[int]:
    kind = rng.randrange(12)
    if kind <= 5:
        descriptor = os.memfd_create("fuzz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, descriptor)
        os.ftruncate(descriptor, rng.choice((0, 1, 4096, 4096, 65536, 2**40, 2**62)))
        seals = (SEALS, SEALS, SEALS, 0, fcntl.F_SEAL_SHRINK, SEALS | fcntl.F_SEAL_WRITE, SEALS | fcntl.F_SEAL_SEAL)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, rng.choice(seals))
        return [descriptor] * rng.choice((1, 1, 1, 2))
    if kind == 6:
        descriptor = os.open("/dev/null", os.O_RDWR)
    elif kind == 7:
        descriptor = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    elif kind == 8:
        descriptor = os.open("/etc/hostname", os.O_PATH)
    elif kind == 9:
        descriptor = os.eventfd(0)
    elif kind == 10:
        descriptor, other = os.pipe()
        stack.callback(os.close, other)
    else:
        pair = [one.detach() for one in socket.socketpair()]
        stack.callback(os.close, pair[1])
        descriptor = pair[0]
    stack.callback(os.close, descriptor)
    return [descriptor]


def handover_session(rng: random.Random, channel: Any, tell: Tell) -> None:
    """Hands over memory, mostly against the rules; raises Wrong if the server breaks a promise."""
    with opened_rpc(channel) as (_, opened), handover_socket(opened) as packets:
        numbers = list(range(1, 9))
        for index in range(rng.randint(1, 8)):
            with _descriptors(rng) as descriptors:
                right = pb.SharedMemoryHandover(segments=[numbers[-1] + 1 + at for at in range(len(descriptors))])
                numbers += right.segments
                if not index:
                    right.instance_id, right.secret = opened.instance_id, opened.shared_memory.secret
                    right.requests = rng.random() < 0.1
                if rng.random() < 0.3:
                    right.withdrawn.extend(rng.choices(numbers, k=rng.choice((1, 1, 3))))
                message = right.SerializeToString()
                if rng.random() < 0.6:
                    tree = tree_of(message, pb.SharedMemoryHandover.DESCRIPTOR)
                    message = mutated(rng, tree, lambda tree=tree: tree)  # type: ignore[misc]
                if not message:
                    message = b"\x30\x00"
                tell(message)
                packets.send(message, descriptors)
                if _judge_handover(packets):
                    return


def _judge_handover(packets: Packets) -> bool:
    """Judges one answer; returns whether the connection is over, or carries requests from now on."""
    answer = packets.receive()
    if answer is None:
        return True
    result = parsed(pb.SharedMemoryHandoverResult, answer)
    if result is not None and result.HasField("status"):
        if result.status.code:
            check_status(result.status)
        return False
    # On a connection for requests, the first message of a stream follows.
    response = parsed(pb.StreamGradientsResponse, answer)
    if response is None or not response.HasField("opened"):
        raise Wrong(f"a malformed answer: {answer[:200]!r}")
    return True


def http2_session(rng: random.Random, address: str, tell: Tell) -> None:
    """Sends frames of HTTP/2 that break its rules and gRPC's; raises Wrong if the connection does not end after it."""
    host, _, port = address.rpartition(":")
    data = PREFACE + frame(4, 0, 0, b"") if rng.random() < 0.95 else broken_bytes(rng, PREFACE)
    count = rng.randint(1, 10)
    for _ in range(count):
        odd = _odd_frame(rng)
        tell(odd)
        data += odd
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except TimeoutError as error:
            raise Wrong(f"a connection that the client has ended stays open for {PATIENCE_S:g} s") from error
        except OSError:  # the server may reset it
            pass


def _odd_frame(rng: random.Random) -> bytes:
    number = rng.choice((0, 1, 1, 1, 3, 3, 5, 2, 2**31 - 1))
    kind = rng.choice((0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255))
    flags = rng.choice((0, 1, 4, 4, 5, 5, 8, 32, 0xFF))
    if kind == 0:
        message = unary_request(rng).SerializeToString()
        payload = framed(message, is_compressed=rng.random() < 0.1)
        if rng.random() < 0.5:
            payload = struct.pack("!BI", rng.choice((0, 1, 2, 255)), odd_number(rng, len(message)) % 2**32) + message
        payload = payload[:16_384]
    elif kind in (1, 5, 9):
        payload = header_block(_odd_fields(rng))
    elif kind == 4:
        names = (1, 2, 3, 4, 5, 6, 7, 0xFE03, 0xFFFF)
        payload = b"".join(
            struct.pack("!HI", rng.choice(names), odd_number(rng) % 2**32) for _ in range(rng.choice((1, 3, 100)))
        )
    elif kind in (3, 8):
        payload = struct.pack("!I", odd_number(rng) % 2**32)
    else:
        payload = rng.randbytes(rng.choice((0, 4, 5, 8, 100)))
    if rng.random() < 0.2:
        payload = broken_bytes(rng, payload)
    made = frame(kind, flags, number, payload)
    if rng.random() < 0.05:
        lie_bytes = (len(payload) + rng.choice((-1, 1, 100, 2**20))) % 2**24
        made = lie_bytes.to_bytes(3, "big") + made[3:]
    return made


def _odd_fields(rng: random.Random) -> list[tuple[bytes, bytes]]:
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", rng.choice(_PATHS).encode()),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    odd = (
        *(
            (b"grpc-timeout", value)
            for value in (b"0n", b"1n", b"99999999H", b"-1S", b"1", b"", b"999999999999S", b"1x")
        ),
        *((b"grpc-encoding", value) for value in (b"gzip", b"deflate", b"identity", b"br", b"", b"\0")),
        *((b"content-length", value) for value in (b"0", b"-1", b"99999999999999999999")),
        (b"x-request-id", odd_text(rng)),
        (b"traceparent", odd_text(rng)),
        (b"odd-bin", odd_text(rng)),
        (b"Upper-Case", b"x"),
        (b"", b"x"),
        (b"connection", b"close"),
        (b":path", b"/again"),
        (b":status", b"200"),
        (b"cookie", b"a" * 9000),
        (odd_text(rng), odd_text(rng)),
    )
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        change = rng.randrange(3)
        if change == 0:
            fields.insert(rng.randrange(len(fields) + 1), rng.choice(odd))
        elif change == 1 and fields:
            fields.pop(rng.randrange(len(fields)))
        elif fields:
            fields[rng.randrange(len(fields))] = rng.choice(odd)
    return fields
