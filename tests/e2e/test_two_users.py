"""Two users of one host who share a server over its unix socket: each has the right gradients and its own memory."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.same_host.user_process import User, user_process
from support.server.server_process import ServerProcess, running_server
from support.tools import require_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="users and memory of Linux")

ONE, OTHER, THIRD = 65531, 65532, 65533  # uids that no account has
CALLS = 50


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server of root on a socket for everybody; ONE and OTHER may share memory."""
    require_root()
    # Not pytest's own directory, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="mse", dir="/tmp") as name:
        Path(name).chmod(0o755)
        flags = ("--socket-mode", "666", "--shared-memory-users", f"{ONE},{OTHER}")
        with running_server(*flags, listen=f"unix:{name}/s") as process:
            yield process


@pytest.fixture
def one(server: ServerProcess) -> Iterator[User]:
    with user_process(server.address, ONE) as user:
        yield user


@pytest.fixture
def other(server: ServerProcess) -> Iterator[User]:
    with user_process(server.address, OTHER) as user:
        yield user


def test_both_get_right_gradients_in_their_own_memory_at_the_same_time(one: User, other: User) -> None:
    for user in (one, other):
        user.tell(f"compute {CALLS}")
    assert [user.said() for user in (one, other)] == [f"{CALLS} shared_memory"] * 2


def test_no_user_can_open_the_memory_of_another_or_of_the_server(server: ServerProcess, one: User, other: User) -> None:
    assert one.ask("compute 1") == "1 shared_memory"
    assert other.ask(f"steal {one.pid}") == "EACCES"
    assert other.ask(f"steal {server.process.pid}") == "EACCES"
    with user_process(server.address, ONE) as same_user:
        # The same attempt by the same user succeeds, so it is the user that keeps the other out.
        number, word = same_user.ask(f"steal {one.pid}").split()
        assert int(number) >= 2
        assert word == "opened"


def test_no_user_can_name_the_segments_of_another_or_speak_for_its_stream(one: User, other: User) -> None:
    assert one.ask("compute 1") == "1 shared_memory"
    assert other.ask("name 8") == "SEGMENT_UNKNOWN"
    assert other.ask("guess") == "SHARED_MEMORY_DENIED"
    assert one.ask("compute 1") == "1 shared_memory"


def test_a_user_who_may_not_share_memory_gets_right_gradients_over_the_stream(server: ServerProcess) -> None:
    with user_process(server.address, THIRD) as user:
        assert user.ask(f"compute {CALLS}") == f"{CALLS} stream"
        assert user.ask("guess") == "SHARED_MEMORY_DENIED"
    refused = [event["message"] for event in server.events if event["event"] == "shared_memory_refused"]
    assert any(f"user {THIRD} may not hand over memory here" in message for message in refused)
