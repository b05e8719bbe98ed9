"""StreamGradients message by message, with its headers and chunks, and the statuses that end it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from mse_grad.codec import Chunk, Header, StreamResponse, decode_stream_response, encode_stream_request
from mse_grad.reasons import ERROR_DOMAIN, Reason
from mse_grad.tensor import FLOAT32, Array, DType, Reduction
from support.values import expected
from support.waiting import PATIENCE_S

__all__ = [
    "SERVICE",
    "RawStream",
    "chunk",
    "detail",
    "error_info",
    "gradient",
    "header",
    "operands",
    "pairs",
    "reason_of",
    "rich_status",
    "told",
    "trailing",
]

SERVICE = "/mse_grad.v1.MseGradService"


class RawStream:
    """A StreamGradients RPC, message by message."""

    def __init__(self, channel: Any, **options: Any) -> None:
        self.call: Any = channel.stream_stream(f"{SERVICE}/StreamGradients")(**options)

    async def opened(self) -> StreamResponse:
        """Returns the first message, with the limits of the server."""
        response = await self.receive()
        assert response.opened is not None
        return response

    async def send(
        self, headers: Sequence[Header] = (), chunks: Sequence[Chunk] = (), cancel_ids: Sequence[int] = ()
    ) -> None:
        await self.send_bytes(encode_stream_request(headers, chunks, cancel_ids))

    async def send_bytes(self, message: bytes) -> None:
        await asyncio.wait_for(self.call.write(message), PATIENCE_S)

    async def receive(self) -> StreamResponse:
        """Returns the next message; raises grpc.aio.AioRpcError if the RPC failed."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert isinstance(message, bytes), "the server ended the stream"
        return decode_stream_response(message)

    async def receive_end(self) -> None:
        """Waits for the end of the RPC, before which no message may be left; raises AioRpcError unless it is OK."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE_S)
        assert not isinstance(message, bytes), decode_stream_response(message)
        assert await asyncio.wait_for(self.call.code(), PATIENCE_S) is grpc.StatusCode.OK

    async def receive_failure(self) -> tuple[grpc.StatusCode, Reason, str]:
        """Returns code, reason and message of the RPC, which must fail before another message."""
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await self.receive_end()
        return told(failure.value)

    async def receive_error(self) -> tuple[int, grpc.StatusCode, Reason, str]:
        """Returns id, code, reason and message of the one error in the next message."""
        response = await self.receive()
        assert not response.results, response
        (error,) = response.errors
        reason = reason_of(error.status)
        return error.id, reason.code, reason, error.status.message

    async def receive_gradient(self, id: int, count: int, dtype: DType = FLOAT32) -> Array:
        """Returns the gradient of request `id`, put together from ascending ranges."""
        parts: list[Array] = []
        received = 0
        while received < count:
            response = await self.receive()
            assert not response.errors, response.errors
            for result in response.results:
                assert (result.id, result.offset) == (id, received)
                parts.append(np.frombuffer(result.y, dtype.numpy))
                received += parts[-1].size
        return np.concatenate(parts) if parts else np.empty(0, dtype.numpy)

    async def assert_works(self, id: int) -> None:
        """Asserts that the stream still answers a small request with a new id."""
        await self.send([header(id, (3,))], [chunk(id, 0, [4.0, 5.0, 6.0])])
        y = await self.receive_gradient(id, 3)
        assert y.tolist() == gradient([4.0, 5.0, 6.0]).tolist()

    async def close(self) -> None:
        """Closes our side and waits for the end; raises AioRpcError unless it is OK."""
        await self.call.done_writing()
        await self.receive_end()


def header(id: int, shape: tuple[int, ...], **fields: Any) -> Header:
    """Returns a header of float32 and mean."""
    return Header(**{"id": id, "dtype": FLOAT32.wire, "shape": shape, "reduction": Reduction.MEAN, **fields})


def chunk(
    id: int, offset: int, values: Sequence[float] | Array, *, dtype: DType = FLOAT32, scalar_dout: bool = False
) -> Chunk:
    """Returns a chunk with `values` as predict, from which label and dout are derived."""
    predict, label, dout = operands(values, dtype)
    return Chunk(id, offset, predict.tobytes(), label.tobytes(), b"" if scalar_dout else dout.tobytes())


def operands(values: Sequence[float] | Array, dtype: DType = FLOAT32) -> tuple[Array, Array, Array]:
    """Returns predict, label and dout for `values`."""
    predict = np.asarray(values, dtype.numpy)
    return predict, (predict * 0.5).astype(dtype.numpy), (predict + 1).astype(dtype.numpy)


def gradient(
    values: Sequence[float] | Array,
    *,
    reduction: Reduction = Reduction.MEAN,
    numel: int | None = None,
    dtype: DType = FLOAT32,
) -> Array:
    """Returns the gradient of the request whose operands `header` and `chunk` derive from `values`."""
    return expected(*operands(values, dtype), reduction.text, numel=numel or 0)


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Returns the ErrorInfo of `status`."""
    info: error_details_pb2.ErrorInfo = detail(status, error_details_pb2.ErrorInfo)
    assert info.domain == ERROR_DOMAIN
    return info


def detail(status: status_pb2.Status, kind: type[Any]) -> Any:
    """Returns the detail of this kind, or None."""
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None


def reason_of(status: status_pb2.Status) -> Reason:
    """Returns the reason in `status`, whose code must be that of the reason."""
    (reason,) = (reason for reason in Reason if reason.value == error_info(status).reason)
    assert status.code == reason.code.value[0]
    return reason


def told(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, Reason, str]:
    """Returns code, reason and message of a failed RPC, whose rich status must agree with its plain one."""
    status = rich_status(error)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return error.code(), reason_of(status), status.message


def rich_status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Returns the google.rpc.Status that came with a failed RPC."""
    return status_pb2.Status.FromString(trailing(error)["grpc-status-details-bin"])


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Returns the trailing metadata of a failed RPC."""
    return pairs(error.trailing_metadata())


def pairs(metadata: Any) -> dict[str, Any]:
    """Returns metadata of grpc.aio, which is not a mapping in every version, as a dictionary."""
    return {key: value for key, value in metadata or ()}  # noqa: C416
