"""Stream of requests: the loop that reads messages, computes gradients and writes the answers, and its time-outs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from typing_extensions import override

from mse_grad.codec import StreamRequest, decode_stream_request
from mse_grad_server.engine.engine import Engine
from mse_grad_server.engine.shares import Share
from mse_grad_server.engine.streams import Drainable
from mse_grad_server.errors import Cancelled, DeadlineExceeded, Draining, ServerError
from mse_grad_server.metrics.collectors import TransferCounter
from mse_grad_server.metrics.recorder import Recorder
from mse_grad_server.process.clock import Clock, Timer
from mse_grad_server.rpc.admission.interruption import Interruption
from mse_grad_server.rpc.admission.reading import EOF, expanded, is_compressed
from mse_grad_server.rpc.stream.batch import Batch
from mse_grad_server.rpc.stream.computation import Computation
from mse_grad_server.rpc.stream.context import StreamContext
from mse_grad_server.rpc.stream.errors import go_away
from mse_grad_server.rpc.stream.limits import StreamLimits
from mse_grad_server.rpc.stream.outbox import Outbox
from mse_grad_server.rpc.stream.requests import OpenRequests
from mse_grad_server.shared_memory.lease import Lease

__all__ = ["Stream"]

# Most headers, chunks and cancellations that are handled in one turn of the event loop. Each error takes about 0.25 ms,
# including its log line; the bound keeps one message from blocking the loop.
_ENTRIES_PER_TURN = 64
# After GoAway and the last answer, the server waits this long for the client to close its side. Closing a socket that
# holds unread bytes resets the connection, and a client that is writing at that moment loses the answers that it has
# not read yet.
_CLOSE_S = 1.0
# Number of stall checks per stall time-out: the server notices a stall at most a quarter of the time-out late.
_CHECKS_PER_STALL = 4


class Stream(Drainable):
    """Stream of one client; not thread-safe: used only in the event loop, by the task that calls `run`.

    While no request waits for more chunks, one coroutine reads, computes and writes in turn, which is fastest for small
    gradients. Otherwise a separate task writes, and the stream keeps reading until a whole window is unanswered.

    Args:
        context: Reads and writes messages.
        engine: Admits and computes requests.
        share: What the client holds of the server; see Share.
        recorder: Counts and logs requests.
        clock: Source of time and timers.
        limits: Limits of the stream.
        name: Prefix of the request ids that the server generates.
        transferred: Counter of the operands and gradients in messages.
        lease: Lease of the client's shared memory; None if the stream has no shared memory.
        counts_as_open: Whether the stream counts against `max_streams`; the packet stream beside an RPC does not.

    Attributes:
        is_draining: Whether `drain` was called.
    """

    def __init__(
        self,
        context: StreamContext,
        engine: Engine,
        share: Share,
        recorder: Recorder,
        clock: Clock,
        limits: StreamLimits,
        *,
        name: str,
        transferred: TransferCounter,
        lease: Lease | None = None,
        counts_as_open: bool = True,
    ) -> None:
        self._counts_as_open = counts_as_open
        self._context = context
        self._engine = engine
        self._share = share
        self._clock = clock
        self._limits = limits
        self._decoding = recorder.phases.decode
        self._outbox = Outbox(context.write, clock)
        self._requests = OpenRequests(
            engine,
            share,
            recorder,
            limits,
            name_of=lambda id: f"{name}-{id}",
            transferred=transferred,
            segments=None if lease is None else lease.segments,
            now=clock.now,
            begin=self._begin,
        )
        self._computation = Computation(engine, share, self._requests, self._outbox, clock, lease)
        self.is_draining = False
        self._interruption = Interruption()
        self._timer: Timer | None = None
        self._timer_due_s = math.inf
        self._handled_s = clock.now()
        self._closing: Timer | None = None
        self._has_ended = False

    @property
    def idle_since_s(self) -> float | None:
        """Time since which the stream waits for its client; None if the client waits for it, or it drains.

        If answers are unread or requests incomplete, it counts as waiting after `give_way_s`.
        """
        if self.is_draining:
            return None
        if self._outbox.is_empty and not self._requests:
            return self._handled_s
        since_s = self._requests.silent_since_s() if self._outbox.is_empty else self._outbox.write_began_s
        is_long = since_s is not None and since_s <= self._clock.now() - self._limits.give_way_s
        return since_s if is_long else None

    async def run(self, opened: bytes) -> None:
        """Serves the stream until the client closes its side, or fails to close it in time after a drain.

        Args:
            opened: First message.

        Raises:
            ContractError: MESSAGE_MALFORMED; the rest of the stream cannot be decoded.
            ServerError: Draining or ServerBusy if the stream is not accepted; MessageTooLarge; DeadlineExceeded if the
                client does not read its answers.
        """
        error: BaseException = Cancelled("the stream ended before the whole request had arrived")
        try:
            self._engine.join(self, counts_as_open=self._counts_as_open)
            self._schedule_check()
            with self._interruption:
                await self._serve(opened)
        except Exception as cause:
            error = cause
            raise
        finally:
            self._close(error)
            # The error's traceback refers to this frame, and this frame to the error. Without the `del`, the cycle
            # keeps the last message in memory until the next garbage collection.
            del error

    def try_handle_inline(self, message: bytes, write_now: Callable[[bytes], bool]) -> bool:
        """Handles and answers a message while `run` waits for one.

        Returns False, and does nothing, if a request is open, an answer is unsent, the stream drains, the message has
        too many entries for one turn, or the client's calls take turns in the event loop.

        Args:
            message: One serialized StreamGradientsRequest.
            write_now: Sends an answer, or returns False if there is no room for it now.

        Raises:
            ContractError, ServerError: As `run`. `run` is waiting in `read`; the caller must make that `read` raise it.
        """
        if self._requests or self.is_draining or not self._outbox.is_empty or self._share.takes_turns:
            return False
        arrived_s = self._clock.now()
        request = self._decoded(message)
        if len(request) > _ENTRIES_PER_TURN:
            return False
        self._handle(request, arrived_s)
        if self._requests or not self._outbox.flush_now(write_now):
            self._outbox.flush_in_task(self._on_flushed)
        return True

    @override
    def drain(self, reason: ServerError) -> None:
        if self.is_draining:
            return
        self.is_draining = True
        self._requests.stop_accepting()
        message = go_away(reason, last_id=self._requests.last_id)
        self._outbox.put(message, len(message))
        self._outbox.flush_in_task(self._on_flushed)

    @override
    def cut_off(self) -> None:
        error = Draining("the server ended the stream before all of its requests were complete")
        self._interruption.set(None if self._is_drained() else error)

    @override
    def give_way(self) -> None:
        if self._requests and self._outbox.is_empty:
            self._requests.give_way(self._clock.now())
            self._send()

    async def _serve(self, opened: bytes) -> None:
        context, outbox, requests, limits = self._context, self._outbox, self._requests, self._limits
        outbox.put(opened, len(opened))
        await outbox.flush()
        while True:
            if self._is_drained():
                self._close_later()
            if self._share.takes_turns:  # otherwise gRPC copies all arrived messages in one turn of the loop
                await self._share.turn()
            message = await context.read()
            if message is EOF:
                break
            if is_compressed(message):
                message = await expanded(message, most_bytes=limits.max_message_bytes, most_times=limits.max_expansion)
            arrived_s = self._clock.now()
            if self._share.takes_turns:
                await self._share.turn()
            request = self._decoded(message)
            if len(request) <= _ENTRIES_PER_TURN:
                self._handle(request, arrived_s)
            else:
                await self._handle_in_turns(request)
            del message, request  # so that this message does not stay in memory while the next one is awaited
            if requests:
                self._outbox.flush_in_task(self._on_flushed)
            else:
                await outbox.flush()
            if outbox.unanswered_bytes >= limits.window_bytes:
                await outbox.below(limits.window_bytes)
        self._outbox.flush_in_task(self._on_flushed)
        await outbox.emptied(more_comes=requests.has_waiting)

    def _decoded(self, message: bytes) -> StreamRequest:
        self._limits.require_message(len(message))
        return decode_stream_request(message)

    def _handle(self, request: StreamRequest, arrived_s: float, *, whole: StreamRequest | None = None) -> None:
        requests = self._requests
        self._handled_s = arrived_s
        batch = requests.handle(request, arrived_s, whole=whole)
        self._decoding.observe_unlocked(self._clock.now() - arrived_s)
        self._computation.put_errors()
        if batch:
            self._computation.answer(batch)
        if requests and requests.next_deadline_s < self._timer_due_s:
            self._schedule_check()

    async def _handle_in_turns(self, request: StreamRequest) -> None:
        self._requests.errors.of_message = 0
        for part in request.parts(_ENTRIES_PER_TURN):
            async with self._share.long_messages:
                self._handle(part, self._clock.now(), whole=request)
                self._outbox.flush_in_task(self._on_flushed)
                await asyncio.sleep(0)

    def _begin(self, batch: Batch) -> None:
        if batch:
            self._computation.answer(batch)
        self._send()

    def _send(self) -> None:
        self._computation.put_errors()
        self._outbox.flush_in_task(self._on_flushed)

    def _on_flushed(self, error: BaseException | None) -> None:
        if error is not None:
            self._interruption.set(error)
        elif self._is_drained():
            self._close_later()
        else:
            self._outbox.flush_in_task(self._on_flushed)  # answers may have been added while the writer was finishing

    def _close_later(self) -> None:
        if self._closing is None and not self._has_ended:
            self._closing = self._clock.call_at(self._clock.now() + _CLOSE_S, lambda: self._interruption.set(None))

    def _is_drained(self) -> bool:
        return self.is_draining and not self._requests and self._outbox.is_empty

    def _schedule_check(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        interval_s = self._limits.stall_timeout_s / _CHECKS_PER_STALL
        self._timer_due_s = min(self._clock.now() + interval_s, self._requests.next_deadline_s)
        self._timer = self._clock.call_at(self._timer_due_s, self._check)

    def _check(self) -> None:
        now_s, timeout_s = self._clock.now(), self._limits.stall_timeout_s
        stalled_s = now_s - timeout_s
        if (write_began_s := self._outbox.write_began_s) is not None and write_began_s <= stalled_s:
            self._interruption.set(DeadlineExceeded(f"the client read no answer for {timeout_s:g} s"))
            return
        # While answers are unsent, the client is waiting for the server, so no request counts as stalled.
        self._requests.expire(now_s, silent_since_s=stalled_s if self._outbox.is_empty else -math.inf)
        self._send()
        self._schedule_check()

    def _close(self, error: BaseException) -> None:
        self._has_ended = True
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        self._outbox.close()
        self._requests.close(error, self._clock.now())
        self._engine.leave(self)
