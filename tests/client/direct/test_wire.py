from __future__ import annotations

import socket

import pytest

from mse_grad_client.direct import wire


def test_a_socket_that_the_kernel_connected_to_itself_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def connected_to_itself(address: tuple[str, int], timeout: float) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(timeout)
        connection.bind(address)
        connection.connect(connection.getsockname())
        made.append(connection)
        return connection

    made: list[socket.socket] = []
    monkeypatch.setattr(socket, "create_connection", connected_to_itself)
    with pytest.raises(ConnectionRefusedError):
        wire.connect("127.0.0.1", 0, timeout_s=5.0)
    assert made[0].fileno() == -1, "it would keep a server from the port"
