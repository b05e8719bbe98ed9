"""Interceptor around every RPC of every service: authentication, places, bounded reading, the guard."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Set
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from typing_extensions import override

from mse_grad.reasons import ContractError, Reason
from mse_grad_server.engine.shares import Shares
from mse_grad_server.errors import Draining, ServerError
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock
from mse_grad_server.rpc.admission.authentication import Authenticator
from mse_grad_server.rpc.admission.call import CURRENT_CALL, Call
from mse_grad_server.rpc.admission.guard import CallGuard
from mse_grad_server.rpc.admission.identity import client_of
from mse_grad_server.rpc.admission.interruption import Interruptible, Interruption
from mse_grad_server.rpc.admission.metadata import excess, origin_in
from mse_grad_server.rpc.admission.places import Places
from mse_grad_server.rpc.admission.reading import EOF, Reading
from mse_grad_server.settings.model import Settings

__all__ = ["CallInterceptor", "CallLimits"]

Handler: TypeAlias = Any  # grpc.RpcMethodHandler, whose members are not public


_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


@dataclass(frozen=True)
class CallLimits:
    """Limits of RPCs in general.

    Attributes:
        silence_s: Longest time for a caller to send its message, or to take its answer.
        max_small_calls: Most small RPCs at a time, those of all methods that are not for gradients.
        max_small_message_bytes: Largest message of a small RPC.
        max_watches: Most watches of health at a time.
        max_expansion: Most times its size that a compressed message may expand to.
    """

    silence_s: float
    max_small_calls: int
    max_small_message_bytes: int
    max_watches: int
    max_expansion: int

    @classmethod
    def of(cls, settings: Settings) -> CallLimits:
        """Returns the limits in `settings`."""
        return cls(
            silence_s=settings.stall_timeout_s,
            max_small_calls=settings.max_small_calls,
            max_small_message_bytes=int(settings.max_small_message_bytes),
            max_watches=settings.max_watches,
            max_expansion=settings.max_expansion,
        )


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor around every handler: ours and those of health, reflection and channelz.

    Args:
        authenticator: Authentication of callers.
        recorder: Counts and logs the end of each RPC.
        clock: Clock.
        limits: Limits of RPCs.
        name: Prefix of the request ids that the server makes.
        gradient_methods: Full names of the methods whose RPC is one request for a gradient.
        stream_methods: Full names of the methods for streams of requests. Both kinds read their messages themselves.
        shares: What each client holds.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        recorder: Recorder,
        clock: Clock,
        limits: CallLimits,
        *,
        name: str,
        gradient_methods: Set[str],
        stream_methods: Set[str],
        shares: Shares,
    ) -> None:
        self._authenticator = authenticator
        self._recorder = recorder
        self._clock = clock
        self._limits = limits
        self._calls = Places(limits.max_small_calls, clock, noun="small calls")
        self._watches = Places(limits.max_watches, clock, noun="Health/Watch calls", patience_s=math.inf)
        self._reads_itself = gradient_methods | stream_methods
        self._shares = shares
        self._name = name
        self._gradient_methods = gradient_methods
        self._numbers = count(1)
        self._handlers: dict[str, Handler] = {}
        self._streaming: set[Interruption] = set()

    def end_calls(self) -> None:
        """Ends the RPCs that are left and would not end by themselves, such as watches of health."""
        for interruption in list(self._streaming):
            interruption.set(Draining("the server is shutting down; send the call to another server, or again later"))

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        # A caller that is refused learns only that, whether or not the method exists, and no message of it is read.
        method: str = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        refusal = excess(metadata) or self._authenticator.refusal(method, metadata)
        if refusal is not None:
            return self._refusing(refusal, method)
        wrapped = self._handlers.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            wrapped = self._handlers[method] = self._around(handler, method)
        return wrapped

    def _refusing(self, refusal: ServerError, method: str) -> Handler:
        async def refuse(_: Any, context: Any) -> bytes:
            async with self._guard(context, method, is_refused=True):
                raise refusal

        # Registered as client streaming, of which nothing is read: gRPC reads the message of a unary method first.
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _around(self, handler: Any, method: str) -> Handler:
        return (
            self._around_own(handler, method) if method in self._reads_itself else self._around_small(handler, method)
        )

    def _around_small(self, handler: Any, method: str) -> Handler:
        # Registered as client streaming, which is the same on the wire: no message is read before the RPC has a place.
        behaviour = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming][0])
        is_watch = handler.response_streaming and not handler.request_streaming
        deserialized = _deserializer(handler.request_deserializer, method)

        async def message_of(reading: Reading) -> Any:
            most_bytes = self._limits.max_small_message_bytes
            advice = f"{method.rpartition('/')[2]} takes at most {most_bytes}"
            return await reading.message(most_bytes=most_bytes, advice=advice)

        async def messages_of(reading: Reading) -> AsyncIterator[Any]:
            while (message := await message_of(reading)) is not EOF:
                yield deserialized(message)

        async def request_of(reading: Reading) -> Any:
            if handler.request_streaming:
                return messages_of(reading)
            message = await message_of(reading)
            if message is EOF:
                raise ContractError(Reason.MESSAGE_MALFORMED, "message", "the call has no message")
            if is_watch:  # from here on it only waits, and may give way to a connection with fewer watches
                self._calls.leave(reading)
                self._watches.take(reading)
                reading.wait()
            return deserialized(message)

        def enter(context: Any) -> Reading:
            limits = self._limits
            reading = Reading(context, self._clock, silence_s=limits.silence_s, max_expansion=limits.max_expansion)
            self._calls.take(reading)
            call = CURRENT_CALL.get()
            call.reading = reading
            call.at_end.append(lambda: leave(reading))
            return reading

        def leave(reading: Reading) -> None:
            self._calls.leave(reading)
            self._watches.leave(reading)

        async def around_coroutine(_: Any, context: Any) -> Any:
            async with self._guard(context, method):
                with enter(context) as reading, self._endable():
                    return await behaviour(await request_of(reading), context)

        # It writes the answers itself: gRPC would wait for ever until the caller reads them.
        async def around_generator(_: Any, context: Any) -> AsyncIterator[Any]:
            async with self._guard(context, method):
                with enter(context) as reading, self._endable() as interruption:
                    if handler.request_streaming:  # it would go on after its token was removed
                        CURRENT_CALL.get().streams.append(Interruptible(interruption))
                    async with aclosing(behaviour(await request_of(reading), context)) as responses:
                        async for response in responses:
                            await reading.write(response)
            return
            yield

        is_generator = inspect.isasyncgenfunction(behaviour)
        wrapped: Handler = _KINDS[True, handler.response_streaming][1](
            around_generator if is_generator else around_coroutine, response_serializer=handler.response_serializer
        )
        return wrapped

    def _around_own(self, handler: Any, method: str) -> Handler:
        kind, handler_of = _KINDS[handler.request_streaming, handler.response_streaming]
        behaviour = getattr(handler, kind)

        async def around_coroutine(request: Any, context: Any) -> Any:
            async with self._guard(context, method):
                return await behaviour(request, context)

        # The handler writes its answers itself. The wrapper is a generator for interceptors such as OpenTelemetry's,
        # which iterate over the answers of any streaming method.
        async def around_writer(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._guard(context, method):
                with self._endable():
                    await behaviour(request, context)
            return
            yield

        wrapped: Handler = handler_of(around_writer if handler.response_streaming else around_coroutine)
        return wrapped

    @contextmanager
    def _endable(self) -> Iterator[Interruption]:
        with Interruption() as interruption:
            self._streaming.add(interruption)
            try:
                yield interruption
            finally:
                self._streaming.remove(interruption)

    def _guard(self, context: Any, method: str, *, is_refused: bool = False) -> CallGuard:
        metadata = context.invocation_metadata()
        began_s = self._clock.now()
        is_request = method in self._gradient_methods
        origin = origin_in(metadata, self._recorder, began_s, made_id=self._made_id, is_request=is_request)
        call = Call(method.rpartition("/")[2], origin, began_s)
        self._authenticator.enter(call, metadata)
        if method in self._reads_itself and not is_refused:
            self._enter_share(call, context)
        return CallGuard(
            context,
            call,
            self._authenticator,
            self._recorder.of(call.grant.name),
            self._clock,
            is_request=is_request,
            silence_s=self._limits.silence_s,
        )

    def _made_id(self) -> str:
        return f"{self._name}-{next(self._numbers)}"

    def _enter_share(self, call: Call, context: Any) -> None:
        grant = call.grant
        share = call.share = self._shares.enter(
            client_of(call, context), name=grant.name, most_requests=grant.most_requests, most_bytes=grant.most_bytes
        )
        call.at_end.append(lambda: self._shares.leave(share))


def _deserializer(deserialize: Callable[[bytes], Any] | None, method: str) -> Callable[[bytes], Any]:
    """Returns the deserializer of a method's messages, whose failure is the caller's error."""
    if deserialize is None:
        return lambda message: message

    def deserialized(message: bytes) -> Any:
        try:
            return deserialize(message)
        except DecodeError as cause:
            name = method.rpartition("/")[2]
            raise ContractError(
                Reason.MESSAGE_MALFORMED, "message", f"the message is not a request of {name}"
            ) from cause

    return deserialized
