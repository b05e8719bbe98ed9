"""Overload: more requests than the server admits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.rpc import error_details_pb2

from mse_grad.reasons import Reason
from support.server.raw_stream import RawStream, chunk, detail, gradient, header, reason_of
from support.server.server_in_loop import Serving, serving

MIB = 2**20
BOUND_BYTES = 16 * MIB
BOUNDS: dict[str, Any] = {"max_in_flight_bytes": BOUND_BYTES, "max_unary_bytes": BOUND_BYTES, "chunk_bytes": MIB}
# Size of three float32 operands; four such requests fit into what one client may have of the bound.
ELEMENTS = 2**18
REQUEST_BYTES = 3 * 4 * ELEMENTS
FIT = 3 * BOUND_BYTES // 4 // REQUEST_BYTES
STREAMS = 4
REQUESTS_EACH = 6
VALUES = [1.5] * ELEMENTS


async def offer(stream: RawStream) -> None:
    for id in range(1, REQUESTS_EACH + 1):
        await stream.send([header(id, (ELEMENTS,))], [chunk(id, 0, VALUES)])


def most(server: Serving) -> dict[str, float]:
    """Returns the number of held bytes that the server reports."""
    return {name: server.metric(f"mse_grad_{name}") for name in ("in_flight_bytes", "queued_messages")}


async def ends(server: Serving, stream: RawStream) -> tuple[list[bytes], list[float]]:
    """Returns the gradients of a stream, and the retry delay in seconds of each refused request."""
    gradients: list[bytes] = []
    delays_s: list[float] = []
    while len(gradients) + len(delays_s) < REQUESTS_EACH:
        response = await stream.receive()
        gradients += [bytes(result.y) for result in response.results]
        for error in response.errors:
            assert reason_of(error.status) is Reason.SERVER_BUSY
            retry = detail(error.status, error_details_pb2.RetryInfo)
            delays_s.append(retry.retry_delay.ToTimedelta().total_seconds())
        assert most(server)["in_flight_bytes"] <= BOUND_BYTES
    return gradients, delays_s


@pytest.mark.parametrize("inline_bytes", [0, 2**20], ids=["threads", "inline"])
async def test_held_bytes_are_bounded_and_each_refusal_says_when_to_retry(inline_bytes: int) -> None:
    bits = gradient(VALUES).tobytes()
    async with serving(**BOUNDS, inline_bytes=inline_bytes) as server:
        streams = [await server.stream() for _ in range(STREAMS)]
        if not inline_bytes:
            server.backend.gate.clear()
        offering = [asyncio.ensure_future(offer(stream)) for stream in streams]
        ending = [asyncio.ensure_future(ends(server, stream)) for stream in streams]
        await asyncio.gather(*offering)
        if not inline_bytes:
            await server.until(lambda: most(server)["in_flight_bytes"] == FIT * REQUEST_BYTES)
            assert most(server)["queued_messages"] <= FIT
            server.backend.gate.set()
        ended = await asyncio.gather(*ending)
        gradients = [each for answered, _ in ended for each in answered]
        delays_s = [each for _, delays in ended for each in delays]
        assert len(gradients) + len(delays_s) == STREAMS * REQUESTS_EACH
        assert len(gradients) >= FIT
        assert set(gradients) == {bits}
        assert all(delay_s > 0 for delay_s in delays_s)
        assert bool(delays_s) is not bool(inline_bytes)
        for stream in streams:
            await stream.assert_works(REQUESTS_EACH + 1)
