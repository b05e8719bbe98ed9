"""One StreamGradients RPC: reads messages, has them computed, writes the answers, keeps time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc

from mse_grad.frame import decode_stream_request
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_server.batch import Batch
from mse_grad_server.clock import Clock, Timer
from mse_grad_server.config import Settings, size_text
from mse_grad_server.engine import Engine
from mse_grad_server.errors import Cancelled, DeadlineExceeded, Draining, MessageTooLarge, ServerError, to_status
from mse_grad_server.interruption import Interruption
from mse_grad_server.lease import Lease
from mse_grad_server.outbox import Outbox
from mse_grad_server.recorder import Recorder
from mse_grad_server.requests import OpenRequests
from mse_grad_server.traffic import Tally

__all__ = ["EOF", "Stream", "StreamContext"]

EOF = grpc.aio.EOF

# How often a stream looks for stalled requests and writes; a stall is noticed at most this share of its time late.
_LOOKS_PER_STALL = 4


class StreamContext(Protocol):
    """What a stream needs: `grpc.aio.ServicerContext`, or packets."""

    def read(self) -> Awaitable[Any]:
        """Returns the next message, or EOF."""

    def write(self, message: bytes) -> Awaitable[None]:
        """Sends a message; returns once there is room for the next."""


class Stream:
    """Belongs to the event loop and to the task that calls `run`.

    While no request waits for more of its chunks, one coroutine reads, computes and writes in turn: the fastest way for
    small gradients. Otherwise a task writes, and reading goes on until a window is unanswered.

    Attributes:
        is_draining: Whether `drain` was called.
    """

    def __init__(
        self,
        context: StreamContext,
        engine: Engine,
        recorder: Recorder,
        clock: Clock,
        settings: Settings,
        *,
        name: str,
        tally: Tally,
        lease: Lease | None = None,
    ) -> None:
        self._context = context
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._decoding = recorder.phases.decode
        self._outbox = Outbox(context.write, clock)
        self._lease = lease
        self._requests = OpenRequests(
            engine,
            recorder,
            settings,
            name_of=lambda id: f"{name}-{id}",
            tally=tally,
            segments=None if lease is None else lease.segments,
        )
        self.is_draining = False
        self._interruption = Interruption()
        self._writer: asyncio.Task[None] | None = None
        self._timer: Timer | None = None
        self._timer_due_s = math.inf

    async def run(self, opened: bytes) -> None:
        """Serves the RPC until the client has closed its side or the server has drained it.

        Args:
            opened: The first message.

        Raises:
            ContractError: MESSAGE_MALFORMED, after which nothing of the stream can be understood.
            ServerError: Draining or ServerBusy at the start; MessageTooLarge; DeadlineExceeded where the client does
                not read its answers.
        """
        self._engine.join(self)
        error: BaseException = Cancelled("the stream ended before the whole request had come")
        try:
            self._keep_time()
            with self._interruption:
                await self._serve(opened)
        except Exception as cause:
            error = cause
            raise
        finally:
            self._close(error)

    def take_alone(self, message: bytes, write_now: Callable[[bytes], bool]) -> bool:
        """Takes a message while `run` waits for one and nothing is under way; else returns False, having done nothing.

        Args:
            message: It.
            write_now: Sends an answer, or returns False where there is no room for it now.

        Raises:
            ContractError, ServerError: As `run`, which has to end by it.
        """
        if self._requests or self.is_draining or not self._outbox.is_empty:
            return False
        self._take(message)
        if self._requests or not self._outbox.flush_now(write_now):
            self._write_in_task()
        return True

    def drain(self, why: ServerError | None = None) -> None:
        """See Drainable, and Removable; a second call does nothing."""
        if self.is_draining:
            return
        self.is_draining = True
        self._requests.stop_taking()
        status = to_status(why or Draining("the server finishes the requests that it has and ends"), request_id="")
        go_away = pb.GoAway(last_id=self._requests.last_id, status=status)
        message = pb.StreamGradientsResponse(go_away=go_away).SerializeToString()
        self._outbox.put(message, len(message))
        self._write_in_task()

    def cut_off(self) -> None:
        """See Drainable."""
        self._interruption.set(Draining("the server ended the stream before all of its requests did"))

    async def _serve(self, opened: bytes) -> None:
        context, outbox, requests = self._context, self._outbox, self._requests
        window_bytes = self._settings.window_bytes
        outbox.put(opened, len(opened))
        await outbox.flush()
        while not self._is_drained():
            message = await context.read()
            if message is EOF:
                break
            self._take(message)
            if requests:
                self._write_in_task()
            else:
                await outbox.flush()
            if outbox.unanswered_bytes >= window_bytes:
                await outbox.below(window_bytes)
        self._write_in_task()
        await outbox.below(1)

    def _take(self, message: bytes) -> None:
        if len(message) > self._settings.max_stream_message_bytes:
            raise MessageTooLarge(
                f"the message has {len(message)} bytes; at most {self._settings.max_stream_message_bytes} are allowed: "
                f"send chunks of {size_text(self._settings.chunk_bytes)} an operand"
            )
        requests, came_s = self._requests, self._clock.now()
        batch = requests.take(decode_stream_request(message), came_s)
        self._decoding.count(self._clock.now() - came_s)
        self._put_errors()
        if batch:
            self._answer(batch)
        if requests and requests.next_deadline_s < self._timer_due_s:
            self._keep_time()
        self._engine.publish()

    def _answer(self, batch: Batch) -> None:
        gradient_bytes = batch.gradient_bytes
        if self._engine.is_small(gradient_bytes) or (batch.shared_elements and self._engine.is_quick(gradient_bytes)):
            answer = self._computed_batch(batch)
            self._outbox.put(answer, batch.operand_bytes + len(answer))
            self._settle(batch)
            return
        for part in batch.parts(self._engine.part_bytes):
            self._answer_from_thread(part)

    def _answer_from_thread(self, batch: Batch) -> None:
        if self._lease is not None and batch.shared_elements:
            self._lease.begin()
        computing = self._engine.run(lambda: self._computed_batch(batch))
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        computing.add_done_callback(lambda _: self._computed(batch, computing, answered))
        self._outbox.put(answered, batch.operand_bytes + batch.gradient_bytes - batch.shared_bytes)

    def _computed_batch(self, batch: Batch) -> bytes:
        return batch.compute(self._engine.compute_all, self._clock.now, fallback=self._engine.fallback)

    def _computed(self, batch: Batch, computing: asyncio.Future[bytes], answered: asyncio.Future[bytes]) -> None:
        if self._lease is not None and batch.shared_elements:
            self._lease.end()
        if answered.done() or computing.cancelled():  # the stream ended meanwhile
            answered.cancel()
            return
        error = computing.exception()
        if error is not None:
            answered.set_exception(error)
            return
        answered.set_result(computing.result())
        self._settle(batch)
        self._engine.publish()

    def _settle(self, batch: Batch) -> None:
        self._requests.settle(batch, self._clock.now())
        self._put_errors()

    def _put_errors(self) -> None:
        # Behind the answers that are computed: a client whose memory is shared takes the error for the word that nobody
        # writes to it any more.
        errors = self._requests.take_errors()
        if errors:
            self._outbox.put(errors, len(errors))

    def _write_in_task(self) -> None:
        if self._writer is None and self._outbox.needs_writer:
            self._writer = asyncio.get_running_loop().create_task(self._outbox.flush())
            self._writer.add_done_callback(self._writer_done)

    def _writer_done(self, writer: asyncio.Task[None]) -> None:
        self._writer = None
        if writer.cancelled():
            return
        error = writer.exception()
        if error is not None or self._is_drained():
            self._interruption.set(error)
        else:
            self._write_in_task()  # what was put between the writer's last look and now

    def _is_drained(self) -> bool:
        return self.is_draining and not self._requests and self._outbox.is_empty

    def _keep_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        look_s = self._clock.now() + self._settings.stall_timeout_s / _LOOKS_PER_STALL
        self._timer_due_s = min(look_s, self._requests.next_deadline_s)
        self._timer = self._clock.call_at(self._timer_due_s, self._on_time)

    def _on_time(self) -> None:
        now_s = self._clock.now()
        stalled_s = now_s - self._settings.stall_timeout_s
        write_began_s = self._outbox.write_began_s
        if write_began_s is not None and write_began_s <= stalled_s:
            self._interruption.set(DeadlineExceeded(f"no answer was read for {self._settings.stall_timeout_s:g} s"))
            return
        # While answers are under way it is the server that is waited for.
        silent_since_s = stalled_s if self._outbox.is_empty else -math.inf
        self._requests.expire(now_s, silent_since_s=silent_since_s)
        self._put_errors()
        self._write_in_task()
        self._engine.publish()
        self._keep_time()

    def _close(self, error: BaseException) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            self._writer.cancel()
        self._requests.close(error, self._clock.now())
        self._engine.leave(self)
        self._engine.publish()
