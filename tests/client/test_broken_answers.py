"""Answers that are not those of the contract: each call ends with an error of the SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2

from mse_grad.codec import StreamRequest
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client import ClientOptions, MseGradClient, RetryOptions, errors
from mse_grad_client.errors import InternalError, Unavailable
from support.client.scripted_server import Script, ScriptedServer
from support.server.listening import listening

ONCE = ClientOptions(retry=RetryOptions(max_attempts=1))
# A field whose length leads past the end, and a text that is not UTF-8.
BROKEN = [b"\x0a\xff", b"\x0a\x01\xff"]
UNARY = ["GetServerInfo", "ComputeGradient"]


def broken_status(kind: type, value: bytes) -> status_pb2.Status:
    name = kind.DESCRIPTOR.full_name  # type: ignore[attr-defined]
    detail = Packed(type_url=f"type.googleapis.com/{name}", value=value)
    return status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="the words", details=[detail])


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yields the address of a server that answers every unary call with these bytes."""
    server = grpc.server(ThreadPoolExecutor(1))
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
    handlers = dict.fromkeys(UNARY, handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mse_grad.v1.MseGradService", handlers),))
    with listening(server) as address:
        yield address


def refuse_all(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    status = broken_status(error_details_pb2.ErrorInfo, BROKEN[0])
    for request in requests:
        failed = [pb.GradientError(id=header.id, status=status) for header in request.headers]
        yield pb.StreamGradientsResponse(errors=failed).SerializeToString()


def go_away(requests: Iterator[StreamRequest]) -> Iterator[bytes]:
    next(requests)
    away = pb.GoAway(status=broken_status(error_details_pb2.ErrorInfo, BROKEN[0]))
    yield pb.StreamGradientsResponse(go_away=away).SerializeToString()
    next(requests, None)


@pytest.mark.parametrize("kind", [error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo])
@pytest.mark.parametrize("value", BROKEN)
def test_details_that_cannot_be_read_leave_code_and_message(kind: type, value: bytes) -> None:
    error = errors.from_status(broken_status(kind, value), request_id="r-1")
    assert isinstance(error, Unavailable)
    assert (error.message, error.reason, error.request_id) == ("the words", None, "r-1")


@pytest.mark.parametrize("script", [refuse_all, go_away])
def test_a_request_whose_error_has_such_details_is_not_sent_for_ever(script: Script) -> None:
    with ScriptedServer(script) as server, MseGradClient(server.address, options=ONCE) as client:
        with pytest.raises(Unavailable, match="the words"):
            client.compute([1.0], [2.0], 1.0)
        assert server.streams == 1


@pytest.mark.parametrize("answer", BROKEN)
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.server_info(),
        lambda client: client.compute_unary([1.0], [2.0], 1.0),
        lambda client: client.wait_ready(timeout_s=60),
    ],
    ids=["server_info", "compute_unary", "wait_ready"],
)
def test_an_answer_that_cannot_be_read_is_an_error_of_the_server(
    call: Callable[[MseGradClient], object], answer: bytes
) -> None:
    with (
        answering(answer) as address,
        MseGradClient(address) as client,
        pytest.raises(InternalError, match="the server broke the contract"),
    ):
        call(client)


def test_a_tensor_that_nobody_asked_for_is_an_error_of_the_server() -> None:
    answer = pb.ComputeGradientResponse(y=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[2], data=bytes(16)))
    with (
        answering(answer.SerializeToString()) as address,
        MseGradClient(address) as client,
        pytest.raises(InternalError, match=r"the server answered dtype 4, shape \[2\] and 16 bytes; expected"),
    ):
        client.compute_unary([1.0], [2.0], 1.0)
