from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mse_grad_client import MseGradClient
from mse_grad_server.process.exits import ExitCode, ListenError
from mse_grad_server.process.socket_file import SocketAccess, UnixSocketFile
from support.server.server_in_loop import serving
from support.waiting import PATIENCE_S


@pytest.fixture
def path() -> Iterator[str]:
    # Not pytest's own directory: its path may be too long for a socket.
    with TemporaryDirectory() as directory:
        yield str(Path(directory) / "s")


def bound_socket(path: str) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(path)
    return bound


def test_a_socket_without_a_listener_is_removed(path: str) -> None:
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


def test_a_socket_of_another_kind_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ListenError, match="cannot be probed: Protocol wrong type"):
            UnixSocketFile(path).prepare()
        assert os.path.exists(path)


def test_a_server_that_accepts_nobody_now_is_left_alone(path: str) -> None:
    with bound_socket(path) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.listen(0)
        waiting.connect(path)
        with pytest.raises(ListenError, match="another server listens"):
            UnixSocketFile(path).prepare()


def test_another_kind_of_file_is_left_alone(path: str) -> None:
    Path(path).write_text("mine")
    with pytest.raises(ListenError, match="another kind of file"):
        UnixSocketFile(path).prepare()
    assert Path(path).read_text() == "mine"


def test_a_path_that_was_never_bound_is_left_alone_at_the_end(path: str) -> None:
    Path(path).write_text("mine")
    file = UnixSocketFile(f"{path}/deeper")
    with pytest.raises(ListenError, match="Not a directory"):
        file.prepare()
    file.remove()


def test_a_missing_directory_is_named(path: str) -> None:
    with pytest.raises(ListenError, match="there is no directory"):
        UnixSocketFile(path + "/deeper").prepare()


def test_the_file_is_removed_unless_another_one_replaced_it(path: str) -> None:
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


def test_a_file_with_the_inode_number_of_the_socket_is_not_removed(path: str) -> None:
    file = UnixSocketFile(path)
    Path(path).write_text("mine")
    file.bound()  # stands for a new file that got the inode number of the socket
    file.remove()
    assert Path(path).read_text() == "mine"


def test_the_mode_is_that_of_the_socket(path: str) -> None:
    with bound_socket(path):
        UnixSocketFile(path, SocketAccess(0o640, os.getgid())).bound()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


@pytest.mark.parametrize("is_link", [True, False])
def test_a_file_that_took_the_place_of_the_socket_keeps_its_mode(path: str, is_link: bool) -> None:
    other = Path(path + ".other")
    other.write_text("mine")
    other.chmod(0o600)
    if is_link:
        os.symlink(other, path)
    else:
        other.rename(path)
    with pytest.raises(ListenError, match="replaced by another file"):
        UnixSocketFile(path, SocketAccess(0o666, os.getgid())).bound()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_socket_that_is_gone_already_is_an_error_of_the_address(path: str) -> None:
    with pytest.raises(ListenError, match="No such file"):
        UnixSocketFile(path).bound()


@pytest.mark.parametrize("name", ["a%20b", "q?x=1#y", "ü ñ", "%", "a:b@c;d[1]{}|^`\\\"<>'+&=$!*()~_-"])
async def test_the_path_is_taken_as_it_is_written_by_server_and_client(path: str, name: str) -> None:
    address = f"unix:{path}{name}.sock"
    async with serving(listen=address) as server:
        assert sorted(each.name for each in Path(path).parent.iterdir()) == [f"s{name}.sock", f"s{name}.sock.memory"]
        assert str(server.server.address) == address
        await (await server.stream()).assert_works(1)
        with MseGradClient(address) as client:
            info = await asyncio.to_thread(client.wait_ready, PATIENCE_S)
            assert [endpoint.address for endpoint in info.endpoints] == [address]
    assert list(Path(path).parent.iterdir()) == []


async def test_a_link_to_another_server_is_in_use(path: str) -> None:
    async with serving(listen=f"unix:{path}.other"):
        os.symlink(f"{path}.other", path)
        with pytest.raises(ListenError, match="another server listens") as error:
            UnixSocketFile(path).prepare()
        assert error.value.exit_code is ExitCode.ADDRESS_IN_USE


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
