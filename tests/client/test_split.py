"""One gradient in parts that several servers compute."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from mse_grad.codec import StreamRequest
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from mse_grad_client import AsyncMseGradClient, ClientOptions, InternalError, MseGradClient, RetryOptions, splitting
from mse_grad_client.testing import FakeServer
from support.client.scripted_server import ScriptedServer, answer_all
from support.values import expected, operands
from support.waiting import PATIENCE_S, wait_until

PART_BYTES = 4096
NO_PAUSE = RetryOptions(max_attempts=2, initial_backoff_s=10 * PATIENCE_S, max_backoff_s=10 * PATIENCE_S)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "_PART_BYTES", PART_BYTES)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@contextmanager
def scripted(*scripts: Any) -> Iterator[list[ScriptedServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ScriptedServer(script)) for script in scripts]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16, FLOAT64], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(7, 1001), (0,), (), (1024,), (1025,)])
def test_the_bits_are_those_of_the_whole(
    server: FakeServer, client_type: type[MseGradClient], dtype: DType, reduction: str, shape: tuple[int, ...]
) -> None:
    given = operands(shape, dtype)
    with client_type(server.address, options=server.options()) as client:
        whole = client.compute(*given, reduction)
        parts = client.compute(*given, reduction, split=True)
    assert parts.tobytes() == whole.tobytes() == expected(*given, reduction).tobytes()
    assert parts.shape == shape
    assert len(server.requests) == 1 + max(1, -(-given[0].nbytes // PART_BYTES))


def test_parts_of_a_part_have_the_n_of_the_whole(server: FakeServer, client_type: type[MseGradClient]) -> None:
    given = operands((3000,))
    with client_type(server.address, options=server.options()) as client:
        y = client.compute(*given, numel=10_000, split=True)
    assert y.tobytes() == expected(*given, numel=10_000).tobytes()


def test_a_scalar_dout_any_strides_and_out_are_as_in_a_whole(
    server: FakeServer, client_type: type[MseGradClient]
) -> None:
    predict, label, _ = operands((90, 80))
    out = np.empty((80, 90), np.float32).T
    with client_type(server.address, options=server.options()) as client:
        assert client.compute(predict[::-1], label.T.copy().T, 0.5, out=out, split=True) is out
        in_place = predict.copy()
        client.compute(in_place, label, 0.5, out=in_place, split=True)
    half = np.full((), 0.5, np.float32)
    assert out.tobytes() == expected(predict[::-1].copy(), label, half).tobytes()
    assert in_place.tobytes() == expected(predict, label, half).tobytes()


def test_the_parts_are_one_call_and_share_its_name(server: FakeServer, client_type: type[MseGradClient]) -> None:
    with client_type(server.address, options=server.options()) as client:
        client.compute(*operands((3000,)), request_id="big", metadata={"team": "vision"}, split=True)
    assert {(request.request_id, request.metadata["team"]) for request in server.requests} == {("big", "vision")}
    assert len(server.requests) == 3


def test_each_server_computes_a_share(client_type: type[MseGradClient]) -> None:
    given = operands((40, 1024))
    with scripted(answer_all, answer_all, answer_all) as servers:
        addresses = [server.address for server in servers]
        with client_type(addresses) as client:

            def is_shared() -> bool:
                before = [len(server.requests) for server in servers]
                assert client.compute(*given, split=True, timeout_s=PATIENCE_S).tobytes() == expected(*given).tobytes()
                return all(len(server.requests) > then for server, then in zip(servers, before, strict=True))

            wait_until(is_shared)


def answer_one(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    """Answers the first message of each stream, and breaks the stream off at the second."""
    yield from answer_all(iter([next(requests)]))
    next(requests)


def test_a_part_whose_server_dies_goes_to_another(client_type: type[MseGradClient]) -> None:
    given = operands((40, 1024))
    with scripted(answer_all, answer_one) as servers:
        options = ClientOptions(retry=NO_PAUSE)
        with client_type([server.address for server in servers], options=options) as client:

            def has_died() -> bool:
                y = client.compute(*given, split=True, timeout_s=PATIENCE_S)
                assert y.tobytes() == expected(*given).tobytes()
                return servers[1].streams >= 2

            wait_until(has_died)


def test_an_error_ends_the_call_and_cancels_the_other_parts(
    server: FakeServer, client_type: type[MseGradClient]
) -> None:
    with client_type(server.address, options=server.options()) as client:
        client.compute(*operands((1,)))
        server.hold()
        server.fail()
        with pytest.raises(InternalError, match="the test fails this request"):
            client.compute(*operands((12, 1024)), split=True)
        wait_until(lambda: all(request.state in ("failed", "cancelled") for request in server.requests[1:]))


def test_nothing_is_written_after_an_interrupt(server: FakeServer) -> None:
    server.hold()
    out = np.full((4, 1024), 7.0, np.float32)
    with server.client() as client:

        def interrupt() -> None:
            server.wait_for_requests(4)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.compute(*operands((4, 1024)), out=out, split=True)
        thread.join()
        wait_until(lambda: all(request.state == "cancelled" for request in server.requests))
        server.release()
        assert (out == 7.0).all()
        client.compute(*operands((4, 1024)), out=out, split=True)


def test_a_cancelled_task_cancels_every_part(server: FakeServer) -> None:
    server.hold()
    out = np.full((4, 1024), 7.0, np.float32)

    async def main() -> None:
        async with AsyncMseGradClient(server.address, options=server.options()) as client:
            call = asyncio.ensure_future(client.compute(*operands((4, 1024)), out=out, split=True))
            await asyncio.to_thread(server.wait_for_requests, 4)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.to_thread(
                wait_until, lambda: all(request.state == "cancelled" for request in server.requests)
            )

    asyncio.run(main())
    assert (out == 7.0).all()


def test_a_system_that_starts_few_threads_still_computes(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start: Callable[[threading.Thread], None] = threading.Thread.start
    given = operands((8, 1024))

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "mse-grad-part" and any(each.name == "mse-grad-part" for each in threading.enumerate()):
            raise RuntimeError("can't start new thread")
        start(thread)

    with server.client() as client:
        client.compute(*operands((1,)))
        monkeypatch.setattr(threading.Thread, "start", start_one)
        assert client.compute(*given, split=True).tobytes() == expected(*given).tobytes()
