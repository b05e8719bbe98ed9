"""The memory bound that `--print-config` prints: a server never holds more, whatever callers send."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

from mse_grad.codec import Chunk, Header, encode_stream_request
from mse_grad.tensor import FLOAT32, Reduction
from mse_grad_client import ClientOptions, MseGradClient
from mse_grad_server.settings.model import Settings
from support.resident import peak_bytes, resident_bytes
from support.same_host.handover import RawHandover
from support.same_host.packets import open_packets
from support.server.backends import ascend_flags
from support.server.direct_client import RawDirect
from support.server.raw_http2 import Http2, framed
from support.server.raw_stream import RawStream
from support.server.server_process import ServerProcess, running_server
from support.values import expected
from support.waiting import until, wait_until

KIB, MIB = 2**10, 2**20
# For threads that start later, and the memory that malloc reserves for each of them.
_THREADS_BYTES = 192 * MIB
SIZES = {
    "max_streams": 6,
    "max_unary_in_flight": 2,
    "max_small_calls": 4,
    "max_unary_bytes": 8 * MIB,
    "max_stream_message_bytes": 8 * MIB,
    "chunk_bytes": 64 * KIB,
}

# The same for limits that callers can almost fill at the same time: a stream mostly holds its window of operands.
FULL_SIZES = {
    "max_streams": 4,
    "max_unary_in_flight": 2,
    "max_small_calls": 4,
    "max_unary_bytes": MIB,
    "max_stream_message_bytes": MIB,
    "chunk_bytes": 256 * KIB,
    "window_chunks": 64,
}

# The same for streams with packets and a direct connection beside them, and the size of an operand: three fit a packet.
BESIDE_SIZES = {**FULL_SIZES, "window_chunks": 32}
OPERAND_BYTES = 60 * KIB
# After this long without room for a message, the server has stopped reading.
_PATIENCE_S = 10.0
_HANGS = {"ASCEND_SIMULATOR_FAULTS": "aclrtQueryEventStatus mode=hang after=100"}


def flags_of(sizes: dict[str, int]) -> list[str]:
    return [word for name, value in sizes.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def limit_memory(pid: int, more_bytes: int) -> None:
    """Limits a process to `more_bytes` beyond the memory that it has mapped."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        mapped_bytes = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (mapped_bytes + more_bytes, mapped_bytes + more_bytes))


def test_callers_fill_most_of_the_bound_at_once_and_never_more() -> None:
    settings = Settings.model_validate({**FULL_SIZES, "shared_memory": False, "direct_listen": "none"})
    half = framed(bytes(settings.receive_limit_bytes - KIB))[: -2 * KIB]
    operand = bytes(FULL_SIZES["chunk_bytes"])
    messages = settings.window_bytes // (4 * len(operand)) - 1  # one more and the server reads no further
    elements = len(operand) // FLOAT32.itemsize_bytes
    header = Header(1, FLOAT32.wire, (messages * elements,), Reduction.MEAN)
    window = b""
    for number in range(messages):
        chunk = Chunk(1, number * elements, operand, operand, operand)
        window += framed(encode_stream_request([] if number else [header], [chunk]))
    patience = ("--device-timeout-s", "300", "--device-hang-s", "600")
    flags = (*ascend_flags(), *patience, "--no-shared-memory", "--direct-listen", "none", *flags_of(FULL_SIZES))
    with running_server(*flags, environment=_HANGS) as server, ExitStack() as stack:
        pid = server.process.pid
        limit_memory(pid, settings.most_memory_bytes + _THREADS_BYTES)
        idle_bytes = resident_bytes(pid)
        filled_bytes = 0
        for method, calls, data in (
            # The device computes nothing, so that operands stay; then comes half of the largest message.
            ("mse_grad.v1.MseGradService/StreamGradients", FULL_SIZES["max_streams"], window + half),
            ("mse_grad.v1.MseGradService/ComputeGradient", FULL_SIZES["max_unary_in_flight"], half),
            ("grpc.health.v1.Health/Check", FULL_SIZES["max_small_calls"], half),
        ):
            for _ in range(calls):
                link = stack.enter_context(Http2(server.address))
                filled_bytes += link.fill(link.open(f"/{method}"), data, patience_s=2.0)
        assert filled_bytes > 0.7 * settings.most_memory_bytes, "the server stopped reading long before its bound"
        # The server holds what was sent. What it takes beside that is 0 to 10 % from one run to the next.
        wait_until(lambda: resident_bytes(pid) - idle_bytes > 0.95 * filled_bytes)
        share = (peak_bytes(pid) - idle_bytes) / settings.most_memory_bytes
        print(f"{share:.2f} of {settings.most_memory_bytes / MIB:.0f} MiB")
        assert share <= 1
        assert server.process.poll() is None
        assert "MemoryError" not in server.log
        server.kill()  # the device hangs


def test_a_server_runs_within_the_memory_that_its_settings_add_up_to() -> None:
    settings = Settings.model_validate(SIZES)
    most_message = framed(bytes(settings.receive_limit_bytes - KIB))
    operand = bytes(2 * MIB)
    header = Header(1, FLOAT32.wire, (len(operand) // 4,), Reduction.MEAN)
    gradient = framed(encode_stream_request([header], [Chunk(1, 0, operand, operand, operand)]))
    with running_server(*flags_of(SIZES)) as server, ExitStack() as stack:
        pid = server.process.pid
        limit_memory(pid, settings.most_memory_bytes + _THREADS_BYTES)
        filled_bytes = 0
        for _ in range(2):
            for method, calls in (
                ("mse_grad.v1.MseGradService/StreamGradients", SIZES["max_streams"]),
                ("mse_grad.v1.MseGradService/ComputeGradient", SIZES["max_unary_in_flight"]),
                ("grpc.health.v1.Health/Check", SIZES["max_small_calls"]),
            ):
                for _ in range(calls):
                    # All but the end of a message: gRPC keeps the message, and nothing else ever comes.
                    link = stack.enter_context(Http2(server.address))
                    filled_bytes += link.fill(link.open(f"/{method}"), most_message[: -2 * KIB])
            slow = stack.enter_context(Http2(server.address))
            slow.fill(slow.open("/mse_grad.v1.MseGradService/StreamGradients"), gradient)
        given = np.linspace(-1, 1, 1024, dtype=np.float32)
        with MseGradClient(server.address, options=ClientOptions(shared_memory=False, direct=False)) as client:
            y = client.compute(given, given, given)
        assert filled_bytes > settings.most_memory_bytes / 4, "the server was hardly filled"
        assert y.tobytes() == expected(given, given, given).tobytes()
        assert "MemoryError" not in server.log


@pytest.mark.skipif(sys.platform != "linux", reason="memory is handed over on Linux alone")
def test_callers_that_fill_every_window_of_packets_and_direct_connections_stay_within_the_bound() -> None:
    settings = Settings.model_validate(BESIDE_SIZES)
    patience = ("--device-timeout-s", "300", "--device-hang-s", "600")
    with running_server(*ascend_flags(), *patience, *flags_of(BESIDE_SIZES), environment=_HANGS) as server:
        pid = server.process.pid
        limit_memory(pid, settings.most_memory_bytes + _THREADS_BYTES)
        idle_bytes = resident_bytes(pid)
        filled_bytes = asyncio.run(fill_windows(server, settings))
        share = (peak_bytes(pid) - idle_bytes) / settings.most_memory_bytes
        print(f"{filled_bytes / MIB:.0f} MiB, {share:.2f} of {settings.most_memory_bytes / MIB:.0f} MiB")
        # A window also counts the gradients, a quarter of it, which are not computed yet.
        windows_bytes = 3 * settings.max_streams * settings.window_bytes
        assert filled_bytes > 0.9 * 3 / 4 * windows_bytes, "the windows were not filled"
        assert share <= 1
        assert server.process.poll() is None
        assert "MemoryError" not in server.log
        server.kill()  # the device hangs


def messages(size_bytes: int) -> Iterator[bytes]:
    """Yields the messages of one request until their operands have `size_bytes`."""
    operand = bytes(OPERAND_BYTES)
    elements = OPERAND_BYTES // FLOAT32.itemsize_bytes
    count = size_bytes // (3 * OPERAND_BYTES)
    header = Header(1, FLOAT32.wire, (count * elements,), Reduction.MEAN)
    for number in range(count):
        chunk = Chunk(1, number * elements, operand, operand, operand)
        yield encode_stream_request([] if number else [header], [chunk])


async def fill(
    send: Callable[[bytes], Coroutine[None, None, None]], size_bytes: int, unsent: list[asyncio.Task[None]]
) -> int:
    """Sends operands until the server reads no further; returns how many bytes of messages it took.

    The message without room goes to `unsent`. To cancel its write would end the RPC, and all that is beside it.
    """
    sent_bytes = 0
    for message in messages(size_bytes):
        sending = asyncio.ensure_future(send(message))
        await asyncio.wait([sending], timeout=_PATIENCE_S)
        if not sending.done():
            unsent.append(sending)
            break
        sending.result()
        sent_bytes += len(message)
    return sent_bytes


async def fill_windows(server: ServerProcess, settings: Settings) -> int:
    """Fills the windows of all streams, packets and direct connections; returns the bytes of the messages sent."""
    pid = server.process.pid
    idle_bytes = resident_bytes(pid)
    with ExitStack() as stack:
        async with grpc.aio.insecure_channel(server.address) as channel:
            ways: list[RawStream] = []
            for _ in range(settings.max_streams):
                stream = RawStream(channel)
                opened = (await stream.opened()).opened
                assert opened is not None
                packets = await open_packets(stack.enter_context(RawHandover(opened)))
                direct = await RawDirect.beside(opened)
                stack.callback(direct.call.writer.transport.abort)  # what it has not sent is lost
                ways += [stream, packets, direct]
            unsent: list[asyncio.Task[None]] = []
            filled = await asyncio.gather(*(fill(way.call.write, 4 * settings.window_bytes, unsent) for way in ways))
            await until(lambda: resident_bytes(pid) - idle_bytes > sum(filled) * 9 // 10)
            for sending in unsent:
                sending.cancel()
            await asyncio.gather(*unsent, return_exceptions=True)
        stack.close()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn of the loop
    return sum(filled)
