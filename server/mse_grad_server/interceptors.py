"""What happens once around every RPC of every service: who calls, its request id, its time, its errors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from types import TracebackType
from typing import Any, TypeAlias

import grpc

from mse_grad.reasons import code_of
from mse_grad_server.access import Access
from mse_grad_server.call import CURRENT_CALL, Call, is_request_id
from mse_grad_server.clock import Clock
from mse_grad_server.errors import Cancelled, DeadlineExceeded, ServerError, to_status
from mse_grad_server.recorder import Recorder
from mse_grad_server.trace import trace_id_of

__all__ = ["CallInterceptor"]

_REQUEST_ID_KEY = "x-request-id"
_TRACEPARENT_KEY = "traceparent"
_DETAILS_KEY = "grpc-status-details-bin"

Handler: TypeAlias = Any  # grpc.RpcMethodHandler, whose members are not public

_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Goes around every handler, ours and those of health, reflection and channelz."""

    def __init__(self, access: Access, recorder: Recorder, clock: Clock, *, name: str, gradient_method: str) -> None:
        """Makes the interceptor of one server.

        Args:
            access: Says who may call.
            recorder: Counts and logs.
            clock: Measures.
            name: Begins the request ids that the server makes.
            gradient_method: Full name of the method of which one RPC is one request for a gradient.
        """
        self._access = access
        self._recorder = recorder
        self._clock = clock
        self._name = name
        self._gradient_method = gradient_method
        self._numbers = count(1)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Returns the handler of the method with ourselves around it, or None where there is none.

        Who may not call learns no more than that, and has no message read.
        """
        method: str = handler_call_details.method
        refusal = self._access.refusal(method, handler_call_details.invocation_metadata or ())
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
            async with self._guard(context, method):
                raise refusal

        # As if a stream came in, of which nothing is read: for a unary method gRPC would read the message first.
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _around(self, handler: Any, method: str) -> Handler:
        kind, handler_of = _KINDS[handler.request_streaming, handler.response_streaming]
        behaviour = getattr(handler, kind)

        async def around_coroutine(request: Any, context: Any) -> Any:
            async with self._guard(context, method):
                return await behaviour(request, context)

        async def around_generator(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._guard(context, method):
                async for response in behaviour(request, context):
                    yield response

        is_generator = inspect.isasyncgenfunction(behaviour)
        wrapped: Handler = handler_of(
            around_generator if is_generator else around_coroutine,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _guard(self, context: Any, method: str) -> _Guard:
        metadata = context.invocation_metadata()
        request_id = next(
            (value for key, value in metadata if key == _REQUEST_ID_KEY and is_request_id(value)),
            "",
        )
        call = Call(method.rpartition("/")[2], request_id or f"{self._name}-{next(self._numbers)}", self._clock.now())
        call.trace_id = next((trace_id_of(value) for key, value in metadata if key == _TRACEPARENT_KEY), "")
        self._access.enter(call, metadata)
        return _Guard(
            context, call, self._access, self._recorder, self._clock, is_request=method == self._gradient_method
        )


class _Guard:
    def __init__(
        self, context: Any, call: Call, access: Access, recorder: Recorder, clock: Clock, *, is_request: bool
    ) -> None:
        self._context = context
        self._call = call
        self._access = access
        self._recorder = recorder
        self._clock = clock
        self._is_request = is_request

    async def __aenter__(self) -> None:
        CURRENT_CALL.set(self._call)
        self._context.set_trailing_metadata(((_REQUEST_ID_KEY, self._call.request_id),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._access.leave(self._call)
        if error is None:
            self._record(None)
            return
        if isinstance(error, asyncio.CancelledError):
            self._record(self._why_cancelled())
            return
        if isinstance(error, grpc.aio.AbortError):  # the handler has told the caller itself
            return
        if isinstance(error, grpc.aio.BaseError):  # gRPC cannot send: the caller is gone
            self._record(self._why_cancelled())
            return
        self._record(error)
        status = to_status(error, request_id=self._call.request_id)
        await self._context.abort(
            code_of(status.code),
            status.message,
            ((_REQUEST_ID_KEY, self._call.request_id), (_DETAILS_KEY, status.SerializeToString())),
        )

    def _why_cancelled(self) -> BaseException:
        if self._context.time_remaining() == 0:
            return DeadlineExceeded("the time that the caller gave ran out")
        return Cancelled("the caller went away")

    def _record(self, error: BaseException | None) -> None:
        call, now_s = self._call, self._clock.now()
        seconds = now_s - call.began_s
        if not self._is_request:
            if error is not None:
                self._recorder.call_failed(call.method, error, request_id=call.request_id)
        elif error is not None:
            self._recorder.failed(call.method, call.spec, error, seconds=seconds, request_id=call.request_id)
        elif call.spec is not None:
            self._recorder.succeeded(
                call.method,
                call.spec,
                seconds=seconds,
                request_id=call.request_id,
                margin_s=call.deadline_s - now_s,
                trace_id=call.trace_id,
            )
