"""Supervisor with fake processes and a fake clock; tests/e2e/test_supervisor.py has real ones."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mse_grad_server.process.exits import ExitCode, ListenError
from mse_grad_server.process.log import open_log
from mse_grad_server.process.state import State
from mse_grad_server.settings.model import Settings
from mse_grad_server.workers.supervisor import Supervisor
from support.server.fake_workers import FakeProcess, FakeStarts
from support.server.fakes import FakeClock
from support.waiting import PATIENCE_S, until

READY, DRAINING = State.READY, State.DRAINING


class Host:
    """A supervisor under test.

    Attributes:
        supervisor: The supervisor.
        starts: The processes that it started.
        clock: Its clock.
        ending: The task of its `run`.
    """

    def __init__(self, supervisor: Supervisor, starts: FakeStarts, clock: FakeClock, log: io.StringIO) -> None:
        self.supervisor = supervisor
        self.starts = starts
        self.clock = clock
        self.ending = asyncio.ensure_future(supervisor.run())
        self._log = log

    async def started(self, count: int) -> FakeProcess:
        """Waits until this number of processes was started in all, and returns the last."""
        await until(lambda: len(self.starts.processes) >= count)
        assert len(self.starts.processes) == count
        return self.starts.last

    async def all_ready(self) -> list[FakeProcess]:
        """Lets every worker start and become ready; returns the processes."""
        count = len(self.supervisor.workers)
        for number in range(1, count + 1):
            (await self.started(number)).become(READY)
        await self.until_states([READY] * count)
        return list(self.starts.processes)

    async def until_states(self, states: list[State]) -> None:
        """Waits until the workers are in these states."""
        await until(lambda: [worker.endpoint.state for worker in self.supervisor.workers] == states)

    async def exit_code(self) -> ExitCode:
        """Waits for the end; returns the exit code."""
        return await asyncio.wait_for(asyncio.shield(self.ending), PATIENCE_S)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Returns the lines of the log with this event."""
        lines = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


@asynccontextmanager
async def supervising(**settings: Any) -> AsyncIterator[Host]:
    values = {"listen": "127.0.0.1:0", "metrics_listen": "none", **settings}
    starts, clock, log = FakeStarts(), FakeClock(), io.StringIO()
    supervisor = Supervisor(Settings(**values), open_log("info", "json", stream=log), start=starts, clock=clock)
    supervisor.open()
    host = Host(supervisor, starts, clock, log)
    try:
        yield host
    finally:
        supervisor.force()
        await asyncio.wait_for(host.ending, PATIENCE_S)
        supervisor.close()
    assert clock.pending == 0, "a timer outlived the supervisor"


async def test_workers_start_one_after_another() -> None:
    async with supervising(workers=3) as host:
        (await host.started(1)).become(READY)
        second = await host.started(2)
        second.end(-11)  # a failure does not delay the next worker either
        (await host.started(3)).become(READY)
        host.clock.advance(0.5)
        assert (await host.started(4)).placement.worker == "cpu:1"


async def test_each_worker_gets_device_and_state_of_all_workers() -> None:
    async with supervising(backend="ascend", devices="0,5-6") as host:
        first, second, third = await host.all_ready()
        assert first.endpoints == [("npu:0", "ready"), ("npu:5", "ready"), ("npu:6", "ready")]
        assert third.endpoints == first.endpoints
        second.become(State.RECOVERING)
        await until(lambda: third.endpoints[1] == ("npu:5", "recovering"))
        second.end(ExitCode.DEVICE_LOST)
        await until(lambda: third.endpoints[1] == ("npu:5", "starting"))


async def test_each_worker_is_told_its_device_its_address_and_the_common_port() -> None:
    async with supervising(backend="ascend", devices="0,5", device_slots=3) as host:
        placements = [process.placement for process in await host.all_ready()]
        assert [placement.worker for placement in placements] == ["npu:0", "npu:5"]
        told = [Settings(**placement.settings) for placement in placements]
        assert [settings.device for settings in told] == [0, 5]
        assert [settings.device_slots for settings in told] == [3, 3]
        assert not any(settings.is_supervised for settings in told)
        common = str(host.supervisor.address)
        assert len({common, *(settings.listen for settings in told)}) == 3
        assert {placement.common_address for placement in placements} == {common}


async def test_an_ended_worker_is_replaced_after_a_pause_at_the_same_address() -> None:
    async with supervising(workers=2) as host:
        first, _ = await host.all_ready()
        first.end(-9)
        await until(lambda: bool(host.events("worker_ended")))
        host.clock.advance(0.49)
        assert len(host.starts.processes) == 2
        host.clock.advance(0.01)
        assert (await host.started(3)).placement == first.placement
        (ended,) = host.events("worker_ended")
        assert (ended["worker"], ended["reason"], ended["exit_code"]) == ("cpu:0", "signal", -9)
        assert host.supervisor.workers[0].restarts == {"signal": 1}


async def test_a_worker_that_never_becomes_ready_is_given_up_while_the_others_go_on() -> None:
    async with supervising(backend="ascend", devices="0-1", worker_hang_s=3600) as host:
        (await host.started(1)).end(ExitCode.NO_DEVICE)
        other = await host.started(2)
        other.become(READY)
        await until(lambda: bool(other.heard) and other.endpoints == [("npu:0", "gone"), ("npu:1", "ready")])
        host.clock.advance(1800)
        assert not host.ending.done()
        (line,) = host.events("worker_given_up")
        assert (line["worker"], line["reason"], line["exit_code"]) == ("npu:0", "no_device", 13)
        host.supervisor.stop()
        other.end(ExitCode.OK)
        assert await host.exit_code() is ExitCode.OK


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        ((ExitCode.OP_PACKAGE, ExitCode.OP_PACKAGE), ExitCode.OP_PACKAGE),
        ((ExitCode.OP_PACKAGE, ExitCode.NO_DEVICE), ExitCode.NO_WORKERS),
    ],
)
async def test_the_supervisor_ends_when_every_worker_is_given_up(
    codes: tuple[ExitCode, ...], exit_code: ExitCode
) -> None:
    async with supervising(workers=2) as host:
        for number, code in enumerate(codes, 1):
            (await host.started(number)).end(code)
        assert await host.exit_code() is exit_code
        (line,) = host.events("no_workers")
        assert line["exit_code"] == exit_code


async def test_a_worker_that_only_signals_ended_gives_the_exit_code_no_workers() -> None:
    async with supervising(workers=1, worker_restarts=0) as host:
        (await host.started(1)).end(-11)
        assert await host.exit_code() is ExitCode.NO_WORKERS


async def test_a_silent_worker_is_killed_and_replaced() -> None:
    async with supervising(workers=1, worker_hang_s=8) as host:
        (process,) = await host.all_ready()
        for _ in range(4):
            host.clock.advance(2)
            assert not process.was_killed
        host.clock.advance(2)
        assert process.was_killed
        assert host.supervisor.workers[0].endpoint.state is State.STARTING
        await until(lambda: bool(host.events("worker_ended")))
        host.clock.advance(0.5)
        await host.started(2)
        assert host.supervisor.workers[0].restarts == {"silent": 1}


async def test_a_worker_with_a_heartbeat_is_left_alone() -> None:
    async with supervising(workers=1, worker_hang_s=8) as host:
        (process,) = await host.all_ready()
        for _ in range(100):
            host.clock.advance(2)
            process.say({})
            await asyncio.sleep(0)
        assert not process.was_killed


async def test_a_supervisor_that_was_suspended_itself_kills_no_worker() -> None:
    async with supervising(workers=1, worker_hang_s=8) as host:
        (process,) = await host.all_ready()
        for _ in range(4):
            host.clock.oversleep(3600)
            assert not process.was_killed


async def test_a_worker_that_does_not_finish_its_drain_is_killed() -> None:
    async with supervising(workers=1, drain_timeout_s=5, worker_hang_s=3600) as host:
        (process,) = await host.all_ready()
        process.become(DRAINING)
        await host.until_states([DRAINING])
        host.clock.advance(19)
        assert not process.was_killed
        host.clock.advance(1)
        assert process.was_killed


async def test_stop_asks_every_worker_to_drain_and_starts_no_further_one() -> None:
    async with supervising(workers=3) as host:
        first = await host.started(1)
        first.become(READY)
        second = await host.started(2)
        host.supervisor.stop()
        assert first.was_terminated
        assert second.was_terminated
        first.end(ExitCode.OK)
        second.end(-15)  # it has no signal handler yet
        assert await host.exit_code() is ExitCode.OK
        assert len(host.starts.processes) == 2


async def test_a_stop_ends_the_wait_for_a_restart() -> None:
    async with supervising(workers=1) as host:
        (await host.started(1)).end(-9)
        await until(lambda: bool(host.events("worker_ended")))
        host.supervisor.stop()
        assert await host.exit_code() is ExitCode.OK


async def test_a_worker_that_fails_while_it_drains_shows_in_the_exit_code() -> None:
    async with supervising(workers=2) as host:
        first, second = await host.all_ready()
        host.supervisor.stop()
        first.end(ExitCode.OK)
        second.end(ExitCode.FAILED)
        assert await host.exit_code() is ExitCode.FAILED


async def test_force_ends_every_worker_at_once() -> None:
    async with supervising(workers=2) as host:
        processes = await host.all_ready()
        host.supervisor.stop()
        host.supervisor.force()
        assert all(process.was_killed for process in processes)
        assert await host.exit_code() is ExitCode.FORCED


@pytest.mark.parametrize(
    "error",
    # Python 3.11 starts a thread for each process.
    [OSError(11, "Resource temporarily unavailable"), RuntimeError("can't start new thread")],
    ids=["no process", "no thread"],
)
async def test_a_process_that_cannot_be_started_counts_as_a_failure(error: Exception) -> None:
    async with supervising(workers=2) as host:
        (await host.started(1)).become(READY)
        (await host.started(2)).become(READY)
        await host.until_states([READY, READY])
        host.starts.error = error
        host.starts.processes[0].end(-9)
        await until(lambda: len(host.events("worker_ended")) == 1)
        host.clock.advance(0.5)
        await until(lambda: len(host.events("worker_ended")) == 2)
        host.clock.advance(1)
        await host.started(3)
        (line,) = host.events("worker_not_started")
        assert str(error) == line["message"]


@pytest.mark.parametrize(("ready_when", "ready_after"), [("any", 1), ("all", 2)])
async def test_the_host_is_ready_with_as_many_workers_as_it_was_told(ready_when: str, ready_after: int) -> None:
    async with supervising(workers=2, ready_when=ready_when) as host:
        for number in (1, 2):
            assert bool(host.events("ready")) == (number > ready_after)
            (await host.started(number)).become(READY)
            await until(lambda number=number: host.supervisor.workers[number - 1].endpoint.state is READY)  # type: ignore[misc]
        (ready,) = host.events("ready")
        assert ready["listen"] == str(host.supervisor.address)
        assert ready["ready_workers"] == ready_after
        host.starts.last.become(State.RECOVERING)
        await host.until_states([READY, State.RECOVERING])
        assert len(host.events("not_ready")) == (ready_when == "all")


async def test_a_taken_port_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        supervisor = Supervisor(
            Settings(listen=address, workers=1), open_log("info", "json", stream=io.StringIO()), start=FakeStarts()
        )
        with closing(supervisor), pytest.raises(ListenError, match=f"{address}.*--listen"):
            supervisor.open()


async def test_another_file_at_the_common_path_is_left_alone_and_logged() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "s")
        async with supervising(workers=1, listen=f"unix:{path}") as host:
            path.write_text("mine")
            await host.all_ready()
            (event,) = host.events("common_path")
            assert "something else is there, which was left alone" in event["message"]
        assert path.read_text() == "mine"


async def test_the_path_leads_to_a_worker_that_is_ready() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "s")
        async with supervising(workers=2, listen=f"unix:{path}") as host:
            assert not os.path.lexists(path)
            first, second = await host.all_ready()
            assert [process.placement.common_address for process in (first, second)] == ["", ""]
            assert path.readlink() == Path(folder, "cpu-0.sock")
            first.become(DRAINING)
            await host.until_states([DRAINING, READY])
            assert path.readlink() == Path(folder, "cpu-1.sock")
            second.end(-9)
            await until(lambda: not os.path.lexists(path))
        assert list(Path(folder).iterdir()) == []


async def test_workers_have_consecutive_ports_for_direct_connections() -> None:
    async with supervising(workers=3, direct_listen="127.0.0.1:50052") as host:
        given = [process.placement.settings["direct_listen"] for process in await host.all_ready()]
    assert given == ["127.0.0.1:50052", "127.0.0.1:50053", "127.0.0.1:50054"]


@pytest.mark.parametrize(
    "message",
    [
        {"state": "well"},
        {"state": [7]},
        {"state": "gone"},
        {"families": []},
        {"metrics": [], "families": []},
        {"metrics": 1, "families": 7},
    ],
)
async def test_a_worker_with_a_broken_message_is_replaced_and_the_others_go_on(message: dict[str, Any]) -> None:
    async with supervising(workers=2, worker_hang_s=8) as host:
        first, second = await host.all_ready()
        first.say(message)
        await until(lambda: bool(host.events("worker_message_broken")))
        for _ in range(5):
            second.say({})
            await asyncio.sleep(0)
            first.say({})
            host.clock.advance(2)
        assert (first.was_killed, second.was_killed) == (True, False)
        await until(lambda: bool(host.events("worker_ended")))
        assert host.supervisor.workers[0].restarts == {"silent": 1}


async def test_a_signal_reaches_a_worker_whose_process_is_just_being_started() -> None:
    async with supervising(workers=1) as host:
        host.starts.may_start.clear()
        await until(lambda: host.starts.begun == 1)
        host.supervisor.stop()
        host.starts.may_start.set()
        process = await host.started(1)
        await until(lambda: process.was_terminated)
        process.end(-15)
        assert await host.exit_code() is ExitCode.OK


async def test_a_second_signal_kills_a_worker_whose_process_is_just_being_started() -> None:
    async with supervising(workers=1) as host:
        host.starts.may_start.clear()
        await until(lambda: host.starts.begun == 1)
        host.supervisor.stop()
        host.supervisor.force()
        host.starts.may_start.set()
        assert await host.exit_code() is ExitCode.FORCED
        assert host.starts.last.was_killed
