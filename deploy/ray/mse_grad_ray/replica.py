"""Replica: a whole server on a private socket, and the relay between it and the messages of Ray Serve."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from mse_grad.methods import COMPUTE_GRADIENT, GET_SERVER_INFO, STREAM_GRADIENTS, full_name
from mse_grad_server.app import Server
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings

__all__ = ["Answer", "RayContext", "Replica", "settings_of"]

# A replica that Ray removes waits for its streams, which would otherwise last as long as their clients. A new stream
# also reaches replicas that were added meanwhile.
_STREAM_AGE_S = 60.0
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class RayContext(Protocol):
    """The part of Ray's `RayServegRPCContext` that the relay uses."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Returns the metadata of the caller."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the code of the status."""

    def set_details(self, details: str) -> None:
        """Sets the message of the status."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str | bytes]]) -> None:
        """Sets the metadata of the status."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A serialized answer, in the form that Ray Serve asks of a message.

    Attributes:
        message: The serialized message.
    """

    message: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - Ray calls it so, as protobuf does
        """Returns the serialized message."""
        return self.message


def settings_of(settings: Mapping[str, Any], *, folder: str) -> Settings:
    """Returns all settings of the server of a replica.

    Args:
        settings: Settings by name, without `listen` and `shared_memory`.
        folder: Folder of its socket.
    """
    defaults = {"metrics_listen": "none", "max_stream_age_s": _STREAM_AGE_S}
    return Settings(**{**defaults, **settings, "listen": f"unix:{folder}/replica", "shared_memory": False})


class Replica:
    """One server and its relay; belongs to the event loop that opens it.

    Every message passes the same checks, admission, engine and backend as on a port, because it goes through the
    server's own listener. Its status comes back with its details.

    Args:
        settings: Settings of the server by name, without `listen` and `shared_memory`: callers reach the replica
            through Ray alone.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._folder = ""
        self._server: Server | None = None
        self._channel: Any = None
        self._watching: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Opens and verifies the backend.

        Raises:
            pydantic.ValidationError: A setting is not valid.
            StartError: The server cannot start; the replica still has to be closed.
        """
        self._folder = tempfile.mkdtemp(prefix="mse-grad-")
        settings = settings_of(self._settings, folder=self._folder)
        server = self._server = Server(settings, open_log(settings.log_level, settings.log_format, stream=sys.stderr))
        await server.open()
        self._watching = [asyncio.create_task(watch()) for watch in (server.watch_device, server.watch_credentials)]
        self._channel = grpc.aio.insecure_channel(server.address.target, options=_UNLIMITED)

    async def close(self) -> None:
        """Finishes the accepted requests and releases everything; may be called after a failed `open`."""
        for task in self._watching:
            task.cancel()
        if self._channel is not None:
            await self._server_of().drain()
            await self._channel.close()
        if self._server is not None:
            await self._server.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def check(self) -> None:
        """Raises StartError if the device is lost, after which only another process can compute."""
        lost = self._server_of().lost
        if lost.done():
            raise lost.result()

    async def compute_gradient(self, message: bytes, context: RayContext) -> Answer:
        """Answers one ComputeGradient RPC."""
        return await self._relay(COMPUTE_GRADIENT, message, context)

    async def get_server_info(self, message: bytes, context: RayContext) -> Answer:
        """Answers one GetServerInfo RPC, for this replica."""
        return await self._relay(GET_SERVER_INFO, message, context)

    async def stream_gradients(
        self, messages: AsyncIterable[bytes], context: RayContext
    ) -> AsyncGenerator[Answer, None]:
        """Answers one StreamGradients RPC.

        Yields:
            The answers. If the stream fails, the last one is empty, because Ray passes a status only with an answer.
        """
        call = self._channel.stream_stream(full_name(STREAM_GRADIENTS))(
            messages, metadata=tuple(context.invocation_metadata())
        )
        try:
            async for message in call:
                yield Answer(message)
        except grpc.aio.AioRpcError as error:
            _pass_status(error, context)
            yield Answer(b"")
        finally:
            call.cancel()

    async def _relay(self, method: str, message: bytes, context: RayContext) -> Answer:
        call = self._channel.unary_unary(full_name(method))(message, metadata=tuple(context.invocation_metadata()))
        try:
            answer = Answer(await call)
        except grpc.aio.AioRpcError as error:
            _pass_status(error, context)
            return Answer(b"")
        context.set_trailing_metadata(list(await call.trailing_metadata()))
        return answer

    def _server_of(self) -> Server:
        assert self._server is not None
        return self._server


def _pass_status(error: grpc.aio.AioRpcError, context: RayContext) -> None:
    context.set_code(error.code())
    context.set_details(error.details() or "")
    context.set_trailing_metadata(list(error.trailing_metadata()))
