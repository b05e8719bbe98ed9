from __future__ import annotations

import asyncio
import socket

import pytest

from mse_grad_server.workers.protocol import ControlChannel


async def pair() -> tuple[ControlChannel, ControlChannel]:
    one, other = socket.socketpair()
    return await ControlChannel.open(one), await ControlChannel.open(other)


async def test_messages_arrive_whole_and_in_order_both_ways() -> None:
    one, other = await pair()
    large = {"families": ["x" * 100] * 20_000, "text": "line\nbreak ü"}
    one.send(large)
    one.send({})
    other.send({"state": "ready"})
    assert await other.receive() == large
    assert await other.receive() == {}
    assert await one.receive() == {"state": "ready"}
    await one.close()
    await other.close()


async def test_the_end_of_one_side_is_the_end_of_both() -> None:
    one, other = await pair()
    one.send({"state": "draining"})
    await one.close()
    assert await other.receive() == {"state": "draining"}
    assert await other.receive() is None
    other.send({"to": "nobody"})
    other.send({"to": "nobody"})
    await other.close()
    other.send({"after": "the end"})


async def test_a_partial_message_at_the_end_is_dropped() -> None:
    ours, theirs = socket.socketpair()
    channel = await ControlChannel.open(ours)
    with theirs:
        theirs.sendall(b'{"state"')
    assert await asyncio.wait_for(channel.receive(), 20) is None
    await channel.close()


@pytest.mark.parametrize("line", [b"no JSON\n", b"\xff\xfe\n", b"7\n", b"[" * 100_000 + b"\n"])
async def test_what_is_no_message_ends_the_messages(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = await ControlChannel.open(ours)
    with theirs:
        theirs.sendall(line)
        assert await asyncio.wait_for(channel.receive(), 20) is None
    await channel.close()
