from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

from mse_grad_server.listening_sockets import ListeningSockets
from support.waiting import PATIENCE_S


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def test_a_socket_is_waited_for_until_it_is_closed() -> None:
    one = listener()
    sockets = ListeningSockets.on(one.getsockname()[1])
    assert not await sockets.closed(0)
    threading.Timer(0.01, one.close).start()
    assert await sockets.closed(PATIENCE_S)


async def test_a_descriptor_that_another_file_has_by_now_is_no_socket_of_ours(tmp_path: Path) -> None:
    one = listener()
    sockets = ListeningSockets.on(one.getsockname()[1])
    with open(tmp_path / "file", "w") as other:
        os.dup2(other.fileno(), one.fileno())
        assert await sockets.closed(0)
        one.close()


async def test_others_are_left_out() -> None:
    with listener() as one, socket.create_connection(one.getsockname()) as connected, listener() as other:
        accepted, _ = one.accept()  # on the same port, and does not listen
        sockets = ListeningSockets.on(one.getsockname()[1])
        one.close()
        assert await asyncio.wait_for(sockets.closed(0), PATIENCE_S)
        assert not await ListeningSockets.on(other.getsockname()[1]).closed(0)
        assert connected.fileno() != -1
        accepted.close()


async def test_looking_closes_nothing_and_leaves_nothing_open() -> None:
    with listener() as one:
        before = set(os.listdir("/dev/fd"))
        for _ in range(10):
            ListeningSockets.on(one.getsockname()[1])
        assert set(os.listdir("/dev/fd")) == before
        socket.create_connection(one.getsockname()).close()
