"""Streams and connections that reach their greatest age under load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mse_grad_client import ClientOptions, MseGradClient
from support.client.relay import relay
from support.client.scripted_workers import compute_until
from support.server.server_process import running_server

AGE_S = 0.3
STREAMS = 4
THREADS = 4


class Streams:
    """Counts the streams that a client opens; see ClientMetrics."""

    count = 0

    def connected(self, address: str) -> None:
        self.count += 1

    def call_ended(self, call: object, seconds: float, error: BaseException | None) -> None:
        pass

    def retried(self, request_id: str, error: Exception) -> None:
        pass


async def compute_through_relay(target: str, options: ClientOptions, is_over: Callable[[], bool]) -> int:
    """Computes with several threads until `is_over()`; returns the number of connections."""
    async with relay(target) as way:
        with MseGradClient(way.address, options=options) as client:
            calls = [asyncio.to_thread(compute_until, client, is_over) for _ in range(THREADS)]
            await asyncio.gather(*calls)
        return way.connections


@pytest.mark.slow
@pytest.mark.parametrize("shared_memory", [False, True])
@pytest.mark.parametrize(
    ("flags", "of_client", "new_connections"),
    [
        (("--max-stream-age-s", str(AGE_S)), {}, False),
        (("--max-connection-age-s", str(AGE_S)), {}, True),
        ((), {"max_stream_age_s": AGE_S}, True),
    ],
    ids=["server's streams", "server's connections", "client's streams"],
)
def test_old_ones_are_replaced_and_no_call_fails(
    flags: tuple[str, ...], of_client: dict[str, Any], new_connections: bool, shared_memory: bool
) -> None:
    streams = Streams()
    options = ClientOptions(metrics=streams, shared_memory=shared_memory, all_workers=False, **of_client)
    with running_server(*flags) as server:
        calls = compute_through_relay(server.address, options, lambda: streams.count >= STREAMS)
        connections = asyncio.run(calls)
    assert (connections >= STREAMS) if new_connections else (connections == 1)
