from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mse_grad_server.exits import ListenError
from mse_grad_server.unix_socket import UnixSocketFile
from support.in_process import serving


@pytest.fixture
def path() -> Iterator[str]:
    # Not pytest's own directory, whose path may be longer than a socket's may be.
    with TemporaryDirectory() as directory:
        yield str(Path(directory) / "s")


def bound_socket(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    return bound


def test_a_socket_that_nobody_listens_on_is_removed(path: str) -> None:
    bound_socket(path).close()
    UnixSocketFile(path).prepare()
    assert not os.path.exists(path)


def test_a_socket_that_another_server_listens_on_is_left_alone(path: str) -> None:
    with bound_socket(path) as other:
        other.listen(2)
        with pytest.raises(ListenError, match="another server listens"):
            UnixSocketFile(path).prepare()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ListenError, match="no socket"):
        UnixSocketFile(path).prepare()
    assert Path(path).read_text() == "mine"


def test_a_missing_directory_is_named(path: str) -> None:
    with pytest.raises(ListenError, match="there is no directory"):
        UnixSocketFile(path + "/deeper").prepare()


def test_the_file_is_removed_unless_it_is_another_by_now(path: str) -> None:
    with bound_socket(path):
        file = UnixSocketFile(path)
        file.bound()
        os.rename(path, path + ".moved")
        with bound_socket(path):
            file.remove()
            assert os.path.exists(path)
            os.rename(path + ".moved", path)
            file.remove()
            assert not os.path.exists(path)
            file.remove()


async def test_a_server_on_a_unix_path_answers_and_leaves_no_file(path: str) -> None:
    bound_socket(path).close()
    async with serving(listen=f"unix:{path}") as server:
        assert str(server.server.address) == f"unix:{path}"
        await (await server.stream()).assert_works(1)
        async with serving(open=False, listen=f"unix:{path}") as second:
            with pytest.raises(ListenError, match="another server listens"):
                await second.server.open()
        await (await server.stream()).assert_works(1)
    assert not os.path.exists(path)
