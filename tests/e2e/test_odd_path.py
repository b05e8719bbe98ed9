"""A call whose path is no UTF-8: nobody else notices."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from mse_grad_client import MseGradClient
from support.server.raw_http2 import PREFACE, frame, header_block
from support.server.server_process import running_server
from support.waiting import PATIENCE_S

_HEADERS, _SETTINGS, _END = 1, 4, 5  # END_STREAM and END_HEADERS


@pytest.mark.parametrize("path", [b"/\xff", b"/mse_grad.v1\xffMseGradService/StreamGradients", b"\x80"])
def test_a_path_that_is_no_utf_8_ends_no_server(path: bytes) -> None:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    asked = PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(_HEADERS, _END, 1, header_block(fields))
    with running_server(metrics_listen="none") as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
            connection.sendall(asked)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        with MseGradClient(server.address) as client:
            assert (client.compute(*np.ones((3, 5), np.float32), timeout_s=PATIENCE_S) == 0).all()
