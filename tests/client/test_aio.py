"""The client with `await`: tasks, cancellation, loops, and its end. Its gradients: tests/congruence."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from mse_grad.codec import StreamRequest
from mse_grad.tensor import Array
from mse_grad_client import (
    AsyncMseGradClient,
    CallInfo,
    ClientClosed,
    ClientOptions,
    DeadlineExceeded,
    InvalidArgument,
    RetryOptions,
    Unavailable,
)
from mse_grad_client.testing import FakeServer
from support.client.scripted_server import ScriptedServer, answer, answer_all
from support.server.server_process import ServerProcess, running_server, stopped
from support.values import expected, operands
from support.waiting import PATIENCE_S, until

ONE_ATTEMPT = RetryOptions(max_attempts=1)
SENTINEL = 12345.0


def silence(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Reads every message and answers none."""
    for _ in requests:
        yield from ()


def test_tasks_of_one_turn_travel_in_one_message() -> None:
    async def main(server: ScriptedServer) -> None:
        given = operands((16,))
        async with AsyncMseGradClient(server.address) as client:
            await client.compute(*given)  # opens the stream
            stream = client._transport._session.pool.given._stream
            assert stream is not None
            await until(lambda: not stream.is_sending)  # the thread that sees a message sent sends the next one
            server.requests.clear()
            found = await asyncio.gather(*(client.compute(*given) for _ in range(40)))
        for y in found:
            np.testing.assert_array_equal(y, expected(*given))

    with ScriptedServer() as server:
        asyncio.run(main(server))
        (message,) = server.requests
        assert len(message.headers) == 40


@pytest.mark.parametrize("kind", ["stream", "packets"])
def test_tasks_send_more_at_once_than_the_kernel_has_room_for(kind: str) -> None:
    async def main(address: str) -> None:
        given = operands((1024,))
        async with AsyncMseGradClient(address, options=ClientOptions(shared_memory=kind == "packets")) as client:
            await client.compute(*given)
            found = await asyncio.wait_for(
                asyncio.gather(*(client.compute(*given, out=np.empty_like(given[0])) for _ in range(1000))), PATIENCE_S
            )
        for y in found:
            np.testing.assert_array_equal(y, expected(*given))

    with running_server() as server:
        asyncio.run(main(server.address))


def test_a_cancelled_task_cancels_its_request_and_no_other() -> None:
    answering = threading.Event()

    def answer_later(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        headers: dict[int, Any] = {}
        first = next(requests)
        second = next(requests)
        answering.wait(PATIENCE_S)
        yield answer(headers, first)
        yield answer(headers, second)
        yield from (answer(headers, request) for request in requests if request.headers)

    async def main(server: ScriptedServer) -> None:
        given = operands((16,))
        out = np.full(16, SENTINEL, np.float32)
        async with AsyncMseGradClient(server.address) as client:
            cancelled = asyncio.create_task(client.compute(*given, out=out))
            await until(lambda: len(server.requests) == 1)
            kept = asyncio.create_task(client.compute(*given))
            await until(lambda: len(server.requests) == 2)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            answering.set()
            np.testing.assert_array_equal(await kept, expected(*given))
            await client.compute(*given)
        assert (out == SENTINEL).all()

    with ScriptedServer(answer_later) as server:
        asyncio.run(main(server))
        assert [request.cancel_ids for request in server.requests if request.cancel_ids] == [[1]]


def pending_of(client: AsyncMseGradClient) -> int:
    """Returns how many requests the client has under way, on all of its streams."""
    connection = client._transport._session.pool.given
    streams: list[Any] = [connection._stream]
    if connection._direct is not None:
        streams += [attempt.stream for attempt in connection._direct._attempts.values()]
    if connection._link is not None:
        streams += [channel.packets for channel in connection._link._channels.values() if channel is not None]
    return sum(len(stream._pending) for stream in streams if stream is not None)


async def is_direct(client: AsyncMseGradClient) -> None:
    """Waits until requests take a direct connection."""
    connection = client._transport._session.pool.given
    link, stream = connection._direct, connection._stream
    assert link is not None
    assert stream is not None
    await until(lambda: link.beside(stream) is not None)


def in_flight_of(server: ServerProcess) -> float:
    page = urlopen(f"http://{server.metrics_address}/metrics", timeout=PATIENCE_S).read().decode()
    return sum(
        float(value) for value in re.findall(r"^mse_grad_in_flight_(?:requests|bytes)(?:{.*})? (\S+)", page, re.M)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")
@pytest.mark.parametrize("kind", ["stream", "packets", "shared memory"])
def test_a_thousand_cancelled_tasks_leave_nothing_on_either_side(kind: str) -> None:
    async def main(server: ServerProcess) -> None:
        is_shared = kind in ("packets", "shared memory")
        options = ClientOptions(shared_memory=is_shared, direct=kind == "direct", shared_from_bytes=0)
        async with AsyncMseGradClient(server.address, options=options) as client:
            empty = client.empty if kind == "shared memory" else np.empty
            predict, label, dout = (empty(1024, np.float32) for _ in range(3))
            for array, values in zip((predict, label, dout), operands((1024,)), strict=True):
                array[...] = values
            outs = [empty(1024, np.float32) for _ in range(1000)]
            await client.compute(predict, label, dout, out=outs[0])
            known = set(threading.enumerate())
            with stopped(server.process):
                tasks = [asyncio.create_task(client.compute(predict, label, dout, out=out)) for out in outs]
                await until(lambda: pending_of(client) == 1000)
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                for out in outs:  # the caller's again
                    out[...] = SENTINEL
            assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []
            np.testing.assert_array_equal(await client.compute(predict, label, dout), expected(predict, label, dout))
            await until(lambda: pending_of(client) == 0 and in_flight_of(server) == 0)
            assert all((out == SENTINEL).all() for out in outs)
            assert client._transport._session.pool.given.in_flight_bytes == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await until(lambda: set(threading.enumerate()) <= known)

    with running_server() as server:
        asyncio.run(main(server))


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")
@pytest.mark.parametrize("kind", ["stream", "direct", "packets", "shared memory"])
def test_calls_that_nobody_awaits_any_longer_write_nothing(kind: str) -> None:
    async def main(server: ServerProcess) -> None:
        options = ClientOptions(shared_memory=kind != "stream", shared_from_bytes=0)
        async with AsyncMseGradClient(server.address, options=options) as client:
            empty = client.empty if kind == "shared memory" else np.empty
            predict, label, dout = (empty(1024, np.float32) for _ in range(3))
            for array, values in zip((predict, label, dout), operands((1024,)), strict=True):
                array[...] = values
            outs = [empty(1024, np.float32) for _ in range(10)]
            await client.compute(predict, label, dout, out=outs[0])
            if kind == "direct":
                await is_direct(client)
            await until(lambda: pending_of(client) == 0)  # a thread notes the end after it has woken the task
            with stopped(server.process):
                calls = [client.compute(predict, label, dout, out=out) for out in outs]
                for call in calls:
                    call.send(None)
                await asyncio.sleep(0)  # one turn of the loop sends them
                assert pending_of(client) == len(outs)
                for call in calls:
                    call.close()  # as the end of the interpreter does, without a loop that could go on
                for out in outs:  # the caller's again
                    out[...] = SENTINEL
            np.testing.assert_array_equal(await client.compute(predict, label, dout), expected(predict, label, dout))
            await until(lambda: pending_of(client) == 0 and in_flight_of(server) == 0)
            assert all((out == SENTINEL).all() for out in outs)

    with running_server() as server:
        asyncio.run(main(server))


def test_parts_that_nobody_awaits_any_longer_end() -> None:
    async def main(server: ScriptedServer) -> None:
        given = operands((3 * 2**20,))  # three parts
        async with AsyncMseGradClient(server.address) as client:
            call = client.compute(*given, split=True)
            call.send(None)
            await until(lambda: sum(len(request.headers) for request in server.requests) == 3)
            call.close()
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
            await until(lambda: pending_of(client) == 0)

    with ScriptedServer(silence) as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("method", ["compute", "compute_unary", "server_info", "wait_ready"])
def test_a_dead_server_costs_no_more_than_the_timeout(method: str) -> None:
    async def main(address: str) -> None:
        async with AsyncMseGradClient(address) as client:
            arguments = operands((16,)) if "compute" in method else ()
            calls = (getattr(client, method)(*arguments, timeout_s=0.05) for _ in range(50))
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, (DeadlineExceeded, Unavailable)), error

    with socket.create_server(("127.0.0.1", 0), backlog=100) as dead:  # accepts connections, and says nothing
        asyncio.run(asyncio.wait_for(main(f"127.0.0.1:{dead.getsockname()[1]}"), PATIENCE_S))


def test_an_address_at_which_no_server_listens_is_unavailable_to_every_task() -> None:
    async def main() -> None:
        async with AsyncMseGradClient("127.0.0.1:1", options=ClientOptions(retry=ONE_ATTEMPT)) as client:
            for error in await asyncio.gather(
                *(client.compute(*operands((16,))) for _ in range(10)), return_exceptions=True
            ):
                assert isinstance(error, Unavailable), error

    asyncio.run(main())


@pytest.mark.parametrize("client_error", [OSError("no way there"), KeyError("no such host")])
def test_whatever_a_channel_of_the_users_raises_reaches_every_task(client_error: Exception) -> None:
    def open_channel(address: str) -> grpc.Channel:
        raise client_error

    async def main() -> None:
        async with AsyncMseGradClient("127.0.0.1:1", options=ClientOptions(open_channel=open_channel)) as client:
            calls = (client.compute(*operands((16,)), timeout_s=PATIENCE_S) for _ in range(10))
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert error is client_error

    asyncio.run(main())


def test_tasks_under_way_fail_when_the_client_closes() -> None:
    async def main(server: ScriptedServer) -> None:
        client = AsyncMseGradClient(server.address)
        tasks = [asyncio.create_task(client.compute(*operands((16,)))) for _ in range(10)]
        await until(lambda: sum(len(request.headers) for request in server.requests) == 10)
        await client.close()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ClientClosed), error
        with pytest.raises(ClientClosed):
            await client.compute(*operands((16,)))
        await client.close()

    with ScriptedServer(silence) as server:
        asyncio.run(main(server))


def test_a_task_that_gets_no_thread_at_the_end_of_the_interpreter_finds_the_client_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        client = AsyncMseGradClient("127.0.0.1:1")

        def start(thread: threading.Thread) -> None:
            if ends:
                client._transport.closed.set()  # as `close` does first
            raise RuntimeError("can't create new thread at interpreter shutdown")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for ends, error in ((False, RuntimeError), (True, ClientClosed)):
                with pytest.raises(error) as raised:
                    await client.compute(*operands((4,)))
                assert isinstance(raised.value, ClientClosed) is ends
        await client.close()

    asyncio.run(main())


def test_loops_of_several_threads_share_a_client() -> None:
    given = [operands((count,)) for count in (1, 100, 5000, 100_000)]

    async def work(client: AsyncMseGradClient) -> list[Array]:
        return await asyncio.gather(*(client.compute(*each) for each in given * 5))

    with running_server() as server:
        client = AsyncMseGradClient(server.address)
        found: list[list[Array]] = []
        threads = [threading.Thread(target=lambda: found.append(asyncio.run(work(client)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(client.close())
    assert len(found) == 4
    for gradients in found:
        for each, y in zip(given * 5, gradients, strict=True):
            np.testing.assert_array_equal(y, expected(*each))


def test_many_gradients_are_taken_from_an_asynchronous_iterable_as_they_are_wanted() -> None:
    taken = 0

    async def items() -> AsyncIterator[tuple[Array, Array, Array]]:
        nonlocal taken
        for seed in range(1000):
            taken += 1
            yield operands((1024, 16), seed=seed)  # four of them are a pack
            await asyncio.sleep(0)

    async def main(server: ScriptedServer) -> None:
        async with AsyncMseGradClient(server.address) as client:
            gradients = client.compute_many(items())
            number = 0
            async for y in gradients:
                np.testing.assert_array_equal(y, expected(*operands((1024, 16), seed=number)))
                number += 1
                if number == 10:
                    break
            await gradients.aclose()  # type: ignore[attr-defined]
        assert taken < 50

    with ScriptedServer() as server:
        asyncio.run(main(server))


async def take_all(gradients: AsyncIterator[Array], found: list[Array]) -> None:
    async for y in gradients:
        found.append(y)


def test_an_item_that_fails_raises_when_its_turn_comes() -> None:
    async def main(server: ScriptedServer) -> None:
        good = operands((3,))
        async with AsyncMseGradClient(server.address) as client:
            found: list[Array] = []
            with pytest.raises(InvalidArgument, match="item 1"):
                await take_all(client.compute_many([good, (good[0], good[1][:2], 1.0), good]), found)
            assert len(found) == 1
            with pytest.raises(InvalidArgument, match="items is a int"):
                await take_all(client.compute_many(7), found)  # type: ignore[call-overload]

    with ScriptedServer() as server:
        asyncio.run(main(server))


def test_calls_go_through_interceptors_with_their_names_and_metadata() -> None:
    seen: list[tuple[str, str, bool]] = []

    class Seen:
        @contextmanager
        def intercept(self, call: CallInfo) -> Iterator[None]:
            call.metadata["team"] = "vision"
            try:
                yield
            except BaseException as error:
                seen.append((call.method, call.request_id, isinstance(error, asyncio.CancelledError)))
                raise
            seen.append((call.method, call.request_id, False))

    async def main(server: FakeServer) -> None:
        given = operands((3,))
        options = server.options(interceptors=(Seen(),))
        async with AsyncMseGradClient(server.address, options=options) as client:
            await client.compute(*given, request_id="a", metadata={"step": "1"})
            await client.compute_unary(*given, request_id="b")
            await take_all(client.compute_many([given], request_id="c"), [])
            await client.server_info(request_id="d")
            server.hold()
            task = asyncio.create_task(client.compute(*given, request_id="e"))
            await until(lambda: len(server.requests) == 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with FakeServer() as server:
        asyncio.run(main(server))
    methods = ("compute", "compute_unary", "compute_many", "server_info", "compute")
    assert seen == [(method, name, name == "e") for method, name in zip(methods, "abcde", strict=True)]
    assert [request.request_id for request in server.requests] == ["a", "b", "c", "e"]
    assert server.requests[0].metadata == {"step": "1", "team": "vision"}


def test_a_loop_that_ends_in_the_middle_of_calls_leaves_the_client_usable() -> None:
    async def abandon(client: AsyncMseGradClient, server: ScriptedServer) -> None:
        tasks = [asyncio.create_task(client.compute(*operands((16,)))) for _ in range(10)]
        await until(lambda: sum(len(request.headers) for request in server.requests) == len(tasks))

    async def use(client: AsyncMseGradClient) -> None:
        np.testing.assert_array_equal(await client.compute(*operands((7,))), expected(*operands((7,))))
        await client.close()

    def answer_sevens(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
        return answer_all(request for request in requests if any(header.shape == (7,) for header in request.headers))

    with ScriptedServer(answer_sevens) as server:
        client = AsyncMseGradClient(server.address)
        asyncio.run(abandon(client, server))
        asyncio.run(use(client))
