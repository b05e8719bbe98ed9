"""Guard around the handler of one RPC: its request id, its error as a status, its record, its end."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import grpc

from mse_grad.reasons import code_of
from mse_grad_server.backends.progress import late
from mse_grad_server.errors import Cancelled, DeadlineExceeded, ScopeMissing, Unauthenticated, to_status
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.rpc.admission.authentication import Authenticator
from mse_grad_server.rpc.admission.call import CURRENT_CALL, Call
from mse_grad_server.rpc.admission.rpc_tasks import end_rpc, on_rpc_end

__all__ = ["REQUEST_ID_KEY", "CallGuard"]

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, in both directions."""

_DETAILS_KEY = "grpc-status-details-bin"
# Longest time to send the error of an RPC, unless the time for a silent caller is shorter.
_ERROR_SEND_S = 10.0
# Time until gRPC has noticed that a caller is gone.
_GONE_S = 0.1


class CallGuard:
    """Block around the handler of one RPC, entered with `async with`.

    Args:
        context: gRPC's context of the RPC.
        call: Record of the RPC.
        authenticator: Authentication, which the RPC leaves at its end.
        recorder: Counts and logs the end of the RPC.
        clock: Clock.
        is_request: Whether the RPC is itself one request for a gradient.
        silence_s: Longest time for the caller to take the last message.
    """

    def __init__(
        self,
        context: Any,
        call: Call,
        authenticator: Authenticator,
        recorder: Recorder,
        clock: Clock,
        *,
        is_request: bool,
        silence_s: float,
    ) -> None:
        self._context = context
        self._call = call
        self._authenticator = authenticator
        self._recorder = recorder
        self._clock = clock
        self._is_request = is_request
        self._silence_s = silence_s
        self._ending: Timer | None = None
        self._aborted: BaseException | None = None

    async def __aenter__(self) -> None:
        CURRENT_CALL.set(self._call)
        on_rpc_end(self._done)
        self._context.set_trailing_metadata(((REQUEST_ID_KEY, self._call.request_id),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._authenticator.leave(self._call)
        if self._call.reading is not None:
            self._call.reading.answered(partial(end_rpc, self._task()))
        if error is None:
            self._end_within(self._silence_s)
            self._record(None)
            return
        self._end_within(min(_ERROR_SEND_S, self._silence_s))
        if isinstance(error, asyncio.CancelledError):
            self._record(self._why_cancelled())
            return
        if isinstance(error, grpc.aio.AbortError):  # the handler has sent a status itself
            return
        if isinstance(error, grpc.aio.BaseError):  # gRPC cannot send: the caller is gone
            self._record(self._why_cancelled())
            self._abandon()
        self._record(error)
        status = to_status(error, request_id=self._call.request_id)
        _forget_frames(error)
        context, self._context = self._context, None
        del error, traceback
        try:
            await context.abort(
                code_of(status.code),
                status.message,
                ((REQUEST_ID_KEY, self._call.request_id), (_DETAILS_KEY, status.SerializeToString())),
            )
        except grpc.aio.AbortError as aborted:
            self._aborted = aborted
            del context
            raise
        except grpc.aio.BaseError:  # the caller is gone, or gRPC accepts no status after an abandoned write
            self._abandon()

    def _abandon(self) -> NoReturn:
        """Ends the RPC without a status, and without a word in gRPC's log."""
        asyncio.get_running_loop().call_later(_GONE_S, end_rpc, self._task())
        raise asyncio.CancelledError from None

    def _end_within(self, seconds: float) -> None:
        # The status may wait forever behind messages that the caller does not read.
        task = self._task()
        self._ending = self._clock.call_at(self._clock.now() + seconds, lambda: end_rpc(task))

    @staticmethod
    def _task() -> asyncio.Task[Any]:
        task = asyncio.current_task()
        assert task is not None
        return task

    def _done(self) -> None:
        for call in self._call.at_end:
            call()
        self._call.at_end.clear()
        self._call.reading = None
        if self._ending is not None:
            self._ending.cancel()
        if self._aborted is not None:
            # gRPC's state of the RPC holds this error, and the frames of the error hold that state.
            self._aborted.__traceback__ = None

    def _why_cancelled(self) -> BaseException:
        if self._context.time_remaining() == 0:
            late_call = DeadlineExceeded("the time that the caller gave ran out")
            return late(self._call.phase) if self._is_request else late_call
        return Cancelled("the caller went away")

    def _record(self, error: BaseException | None) -> None:
        call, now_s = self._call, self._clock.now()
        seconds = now_s - call.began_s
        # The log names a caller whose token is refused by its address: it has no other name.
        peer = self._context.peer() if isinstance(error, Unauthenticated | ScopeMissing) else ""
        if not self._is_request:
            if error is not None:
                self._recorder.call_failed(call.method, error, request_id=call.request_id, peer=peer)
        elif error is not None:
            self._recorder.failed(
                call.method,
                call.spec,
                error,
                seconds=seconds,
                origin=call.origin._replace(peer=peer),
            )
        elif call.spec is not None:
            self._recorder.succeeded(
                call.method,
                call.spec,
                seconds=seconds,
                origin=call.origin,
                margin_s=call.deadline_s - now_s,
            )


def _forget_frames(error: BaseException) -> None:
    """Drops the frames of a logged error, and so the message that they hold.

    gRPC keeps the error with which it ended a call, and this one behind it, as long as the call.
    """
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
