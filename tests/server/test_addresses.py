from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mse_grad_server.address import Address
from mse_grad_server.addresses import HeldPort, LeadingPath, WorkerPath
from mse_grad_server.exits import ListenError


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own directory, whose path may be longer than a socket's may be.
    with TemporaryDirectory() as path:
        yield Path(path)


def listening(address: Address) -> socket.socket:
    """Returns a socket that listens as a worker does."""
    sharing = socket.socket()
    sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sharing.bind((address.host, address.port))
    sharing.listen()
    return sharing


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0"])
def test_a_free_port_is_taken(listen: str) -> None:
    with closing(HeldPort(Address.parse(listen))) as held:
        held.open()
        assert held.address.port > 0
        assert held.address.host == Address.parse(listen).host


def test_workers_listen_on_a_held_port_and_get_every_connection() -> None:
    with closing(HeldPort(Address.parse("127.0.0.1:0"))) as held:
        held.open()
        place = (held.address.host, held.address.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        with listening(held.address) as one, listening(held.address) as other:
            one.setblocking(False)
            other.setblocking(False)
            connections = [socket.create_connection(place) for _ in range(64)]
            accepted = [count_accepted(worker) for worker in (one, other)]
            assert sum(accepted) == 64
            assert min(accepted) > 0
            for connection in connections:
                connection.close()


def count_accepted(worker: socket.socket) -> int:
    count = 0
    while True:
        try:
            worker.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_port_on_which_workers_of_another_host_listen_is_taken() -> None:
    with closing(HeldPort(Address.parse("127.0.0.1:0"))) as held:
        held.open()
        with listening(held.address), pytest.raises(ListenError, match=f"{held.address}.*--listen"):
            HeldPort(held.address).open()


def test_a_port_that_a_server_has_left_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as former:
        place = former.getsockname()
        with socket.create_connection(place), former.accept()[0]:
            pass  # what is left of it waits for a minute: TIME_WAIT
    with closing(HeldPort(Address("127.0.0.1", place[1]))) as held:
        held.open()


def test_an_address_of_a_name_that_this_machine_has_not_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port)) for ip in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with closing(HeldPort(Address.parse("localhost:0"))) as held:
        held.open()
        assert held.address.port > 0


def test_a_host_that_is_not_this_machine_is_an_error() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1:0"):
        HeldPort(Address.parse("192.0.2.1:0")).open()


def test_the_path_leads_from_one_to_another_and_is_gone_at_the_end(folder: Path) -> None:
    path = folder / "s"
    leading = LeadingPath(Address(path=str(path)))
    leading.open()
    for target in ("one", "one", "other"):
        leading.lead_to(str(folder / target))
        assert path.readlink() == folder / target
    leading.lead_to("")
    assert not os.path.lexists(path)
    leading.lead_to(str(folder / "one"))
    leading.close()
    assert list(folder.iterdir()) == []


def test_what_a_killed_supervisor_left_is_taken_over(folder: Path) -> None:
    path = folder / "s"
    path.symlink_to(folder / "gone")
    LeadingPath(Address(path=str(path))).open()
    assert not os.path.lexists(path)


def test_a_path_that_leads_to_a_server_is_left_alone(folder: Path) -> None:
    path, worker = folder / "s", folder / "cpu-0.sock"
    path.symlink_to(worker)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(worker))
        other.listen()
        with pytest.raises(ListenError, match="another server listens"):
            LeadingPath(Address(path=str(path))).open()
        assert path.is_symlink()


def test_a_worker_has_a_path_of_its_own_beside_the_common_one() -> None:
    assert WorkerPath.beside(Address(path="/run/s"), "npu:3").address == Address(path="/run/npu-3.sock")


def test_the_common_path_is_no_worker_s() -> None:
    with pytest.raises(ListenError, match=r"unix:/run/cpu-0\.sock is .*--listen"):
        WorkerPath.beside(Address(path="/run/cpu-0.sock"), "cpu:0")


def test_a_folder_too_long_for_a_worker_s_name_is_an_error() -> None:
    folder = "/" + "f" * 100
    with pytest.raises(ListenError, match=r"worker npu:3 cannot listen.*107 bytes"):
        WorkerPath.beside(Address(path=f"{folder}/s"), "npu:3")


def test_the_socket_that_a_killed_worker_left_is_removed(folder: Path) -> None:
    path = folder / "cpu-0.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    own = WorkerPath(Address(path=str(path)))
    own.open()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    own.close()
    assert not path.exists()
