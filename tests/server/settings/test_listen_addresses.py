from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mse_grad_server.process.exits import ExitCode, ListenError
from mse_grad_server.settings.address import Address
from mse_grad_server.settings.listen_addresses import HeldPort, LeadingPath, WorkerPath, listen_error, why_not_bound


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own directory: its path may be too long for a socket.
    with TemporaryDirectory() as path:
        yield Path(path)


def listening(address: Address) -> socket.socket:
    """Returns a listening socket, opened as a worker opens it."""
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


def test_a_port_of_an_outgoing_connection_is_in_use_and_may_become_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()) as connection:
        address = Address("127.0.0.1", connection.getsockname()[1])
        for error in (failure_of(HeldPort(address)), why_not_bound(address, shares_port=False)):
            assert error.exit_code is ExitCode.ADDRESS_IN_USE
            assert f"{address}: Address already in use" in str(error)
            assert "an outgoing connection" in str(error)


def failure_of(held: HeldPort) -> ListenError:
    with pytest.raises(ListenError) as failure:
        held.open()
    return failure.value


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.1:1", "Cannot assign requested address"),
        ("no.such.host.invalid:1", "Name or service not known|failure"),
    ],
)
def test_an_error_that_a_restart_cannot_mend_has_another_exit_code(address: str, words: str) -> None:
    error = why_not_bound(Address.parse(address), shares_port=True)
    assert error.exit_code is ExitCode.LISTEN
    assert re.search(words, str(error))


def test_a_privileged_port_is_refused_with_the_message_of_the_system() -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    error = listen_error(denied, Address.parse("127.0.0.1:80"))
    assert error.exit_code is ExitCode.LISTEN
    assert str(error) == "cannot listen on 127.0.0.1:80: Permission denied; choose another --listen"


def test_an_address_that_is_free_again_was_in_use() -> None:
    assert why_not_bound(Address.parse("127.0.0.1:0"), shares_port=False).exit_code is ExitCode.ADDRESS_IN_USE


def test_a_port_that_a_server_has_left_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as former:
        place = former.getsockname()
        with socket.create_connection(place), former.accept()[0]:
            pass  # its connection stays in TIME_WAIT for a minute
    with closing(HeldPort(Address("127.0.0.1", place[1]))) as held:
        held.open()


def test_addresses_of_a_name_that_this_machine_lacks_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_link_of_a_killed_supervisor_is_replaced(folder: Path) -> None:
    path = folder / "s"
    path.symlink_to(folder / "cpu-12.sock")
    LeadingPath(Address(path=str(path))).open()
    assert not os.path.lexists(path)


@pytest.mark.parametrize("name", ["gone", "deeper/cpu-0.sock", "cpu-0.sock.old", "cpu.sock"])
def test_a_link_of_another_owner_is_left_alone(name: str, folder: Path) -> None:
    path = folder / "s"
    path.symlink_to(folder / name)
    with pytest.raises(ListenError, match="left alone"):
        LeadingPath(Address(path=str(path))).open()
    assert path.readlink() == folder / name


def test_another_file_at_the_path_is_never_overwritten(folder: Path) -> None:
    path = folder / "s"
    leading = LeadingPath(Address(path=str(path)))
    leading.open()
    path.write_text("mine")
    with pytest.raises(ListenError, match="left alone"):
        leading.lead_to(str(folder / "one"))
    path.unlink()
    leading.lead_to(str(folder / "one"))
    path.unlink()
    path.write_text("mine")
    for target in (str(folder / "other"), ""):
        with pytest.raises(ListenError, match="left alone"):
            leading.lead_to(target)
    leading.close()
    assert path.read_text() == "mine"
    path.unlink()
    leading.lead_to(str(folder / "other"))
    assert path.readlink() == folder / "other"


def test_a_removed_path_is_created_again(folder: Path) -> None:
    path = folder / "s"
    leading = LeadingPath(Address(path=str(path)))
    leading.lead_to(str(folder / "one"))
    path.unlink()
    leading.lead_to(str(folder / "other"))
    assert path.readlink() == folder / "other"
    path.unlink()
    leading.lead_to("")
    leading.close()


def test_a_file_with_the_name_of_the_next_link_is_left_alone(folder: Path) -> None:
    path, next_path = folder / "s", folder / f".s.{os.getpid()}"
    leading = LeadingPath(Address(path=str(path)))
    leading.lead_to(str(folder / "one"))
    next_path.write_text("mine")
    with pytest.raises(ListenError, match="File exists"):
        leading.lead_to(str(folder / "other"))
    assert next_path.read_text() == "mine"
    next_path.unlink()
    next_path.symlink_to("what a killed one with our number left")
    leading.lead_to(str(folder / "other"))
    assert path.readlink() == folder / "other"


def test_a_path_that_leads_to_a_server_is_left_alone(folder: Path) -> None:
    path, worker = folder / "s", folder / "cpu-0.sock"
    path.symlink_to(worker)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(worker))
        other.listen()
        with pytest.raises(ListenError, match="another server listens"):
            LeadingPath(Address(path=str(path))).open()
        assert path.is_symlink()


def test_a_worker_has_its_own_path_beside_the_common_one() -> None:
    assert WorkerPath.beside(Address(path="/run/s"), "npu:3").address == Address(path="/run/npu-3.sock")


def test_the_common_path_must_not_be_that_of_a_worker() -> None:
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
