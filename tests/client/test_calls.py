"""Request ids, metadata, interceptors and metrics of calls, against a whole server."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest

from mse_grad_client import CallInfo, ClientOptions, InvalidArgument, MseGradClient, MseGradError
from mse_grad_server.errors import BackendError
from support.server.server_in_loop import Serving, serving

T = TypeVar("T")
ONES = np.ones((2, 3), np.float32)
CALLS: dict[str, Callable[..., Any]] = {
    "compute": lambda client, **words: client.compute(ONES, ONES, ONES, "sum", **words),
    "compute_unary": lambda client, **words: client.compute_unary(ONES, ONES, ONES, "sum", **words),
    "compute_many": lambda client, **words: client.compute_many([(ONES, ONES, ONES)] * 3, "sum", **words),
}
each_call = pytest.mark.parametrize("method", CALLS)


def with_client(body: Callable[[MseGradClient], T], *, fails: bool = False, **options: Any) -> tuple[T, Serving]:
    """Returns the result of `body`, which runs in a thread beside a server in the loop, and the ended server."""

    async def run() -> tuple[T, Serving]:
        async with serving() as server:
            server.backend.error = BackendError("broken") if fails else None

            def call() -> T:
                with MseGradClient(str(server.server.address), options=ClientOptions(**options)) as client:
                    return body(client)

            return await asyncio.to_thread(call), server

    return asyncio.run(run())


class Recorded:
    """An interceptor and a metrics hook that keep what they see."""

    def __init__(self, log: list[str] | None = None, name: str = "one") -> None:
        self.calls: list[CallInfo] = []
        self.ended: list[tuple[CallInfo, BaseException | None]] = []
        self.connections: list[str] = []
        self.log = [] if log is None else log
        self.name = name

    @contextmanager
    def intercept(self, call: CallInfo) -> Iterator[None]:
        self.calls.append(call)
        self.log.append(f"{self.name} begins")
        try:
            yield
        finally:
            self.log.append(f"{self.name} ends")

    def call_ended(self, call: CallInfo, seconds: float, error: BaseException | None) -> None:
        assert seconds >= 0
        self.ended.append((call, error))

    def retried(self, request_id: str, error: Exception) -> None:
        self.log.append("retried")

    def connected(self, address: str) -> None:
        self.connections.append(address)


@each_call
def test_the_server_logs_a_callers_id_and_words(method: str) -> None:
    def call(client: MseGradClient) -> None:
        CALLS[method](client, request_id="mine-7", metadata={"team": "vision", "run": "4 b"})

    _, server = with_client(call)
    lines = server.events("request_answered")
    assert lines
    assert {(line["request_id"], line["metadata"]) for line in lines} == {("mine-7", "team=vision, run=4 b")}


@each_call
def test_an_error_has_the_callers_id_and_so_has_the_line_of_the_server(method: str) -> None:
    def call(client: MseGradClient) -> MseGradError:
        with pytest.raises(MseGradError) as raised:
            CALLS[method](client, request_id="mine-8", metadata={"team": "vision"})
        return raised.value

    error, server = with_client(call, fails=True)
    assert error.request_id == "mine-8"
    lines = server.events("request_failed")
    assert [(line["request_id"], line["metadata"]) for line in lines] == [("mine-8", "team=vision")]


def test_server_info_takes_an_id() -> None:
    seen = Recorded()
    info, _ = with_client(lambda client: client.server_info(request_id="mine-9"), interceptors=[seen])
    assert info.ready
    assert [(call.method, call.request_id) for call in seen.calls] == [("server_info", "mine-9")]


@each_call
@pytest.mark.parametrize(
    "words",
    [
        {"request_id": "ü"},
        {"request_id": "x" * 129},
        {"request_id": "a\nb"},
        {"metadata": {"Team": "x"}},
        {"metadata": {"team": "x\n"}},
        {"metadata": {"team": "x" * 257}},
        {"metadata": {"team": 7}},
        {"metadata": {str(n): "x" for n in range(17)}},
    ],
)
def test_words_out_of_bounds_are_refused_before_anything_is_sent(method: str, words: dict[str, Any]) -> None:
    with MseGradClient("127.0.0.1:1") as client, pytest.raises(InvalidArgument, match="must"):
        CALLS[method](client, **words)


@each_call
def test_interceptors_see_a_call_in_order_and_may_add_words(method: str) -> None:
    log: list[str] = []
    first, second = Recorded(log, "first"), Recorded(log, "second")

    class Adds:
        @contextmanager
        def intercept(self, call: CallInfo) -> Iterator[None]:
            call.metadata["team"] = "vision"
            yield

    _, server = with_client(CALLS[method], interceptors=[first, second, Adds()])
    assert log == ["first begins", "second begins", "second ends", "first ends"]
    (call,) = first.calls
    assert call is second.calls[0]
    assert call.method == method
    assert call.reduction == "sum"
    if method != "compute_many":
        assert (call.shape, call.dtype, call.size_bytes) == ((2, 3), "float32", ONES.nbytes)
    lines = server.events("request_answered")
    assert {(line["request_id"], line["metadata"]) for line in lines} == {(call.request_id, "team=vision")}


@each_call
def test_an_interceptor_may_refuse_a_call(method: str) -> None:
    class Refuses:
        def intercept(self, call: CallInfo) -> Any:
            raise LookupError(f"no {call.method} today")

    seen = Recorded()
    options = ClientOptions(interceptors=(seen, Refuses()), metrics=seen)
    with MseGradClient("127.0.0.1:1", options=options) as client, pytest.raises(LookupError, match="today"):
        CALLS[method](client)
    assert seen.log == ["one begins", "one ends"]
    ((_, error),) = seen.ended
    assert isinstance(error, LookupError)


@each_call
def test_metrics_get_every_call_and_connection(method: str) -> None:
    seen = Recorded()
    address, _ = with_client(lambda client: (CALLS[method](client), client.address)[1], metrics=seen)
    assert [(call.method, error) for call, error in seen.ended] == [(method, None)]
    assert seen.connections == ([] if method == "compute_unary" else [address])


def test_metrics_get_failed_calls_with_their_error() -> None:
    seen = Recorded()

    def call(client: MseGradClient) -> BaseException:
        with pytest.raises(MseGradError) as raised:
            client.compute(ONES, ONES, ONES)
        return raised.value

    error, _ = with_client(call, fails=True, metrics=seen)
    assert [kept for _, kept in seen.ended] == [error]


def test_a_wrong_interceptor_or_channel_option_is_refused() -> None:
    for wrong in (
        {"interceptors": [object()]},
        {"interceptors": Recorded()},
        {"metrics": object()},
        {"user_agent": "ü"},
        {"channel_options": ["grpc.keepalive_time_ms"]},
        {"channel_options": [("grpc.keepalive_time_ms", 1.5)]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ClientOptions(**wrong)


def test_options_with_interceptors_and_channel_options_are_pickled() -> None:
    options = ClientOptions(interceptors=[Recorded()], channel_options=[("grpc.max_metadata_size", 9000)])
    copied = pickle.loads(pickle.dumps(options))
    assert copied.channel_options == (("grpc.max_metadata_size", 9000),)
    assert isinstance(copied.interceptors[0], Recorded)


def test_the_logger_is_quiet_by_default_and_tells_of_connections_when_asked(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with_client(CALLS["compute"])
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.DEBUG, "mse_grad_client"):
        with_client(CALLS["compute"])
    assert any(message.startswith("connected to ") for message in caplog.messages)
