"""A live stream of requests over one call; thread-safe."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

from typing_extensions import override

from mse_grad.codec import decode_stream_response
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import MseGradError, Unavailable, from_status
from mse_grad_client.interrupts import Latch
from mse_grad_client.stream.call import Call
from mse_grad_client.stream.exchange import Exchange
from mse_grad_client.stream.outbox import Outbox
from mse_grad_client.stream.reader import Reader

__all__ = ["Stream"]

# The reader ends at once when its call is cancelled, unless gRPC itself hangs.
_CLOSE_TIMEOUT_S = 5.0
# Longest wait of `close` for the server to end its side too.
_FINISH_S = 0.1


class Stream(Reader):
    """Sends exchanges over one call and hands them their answers.

    The call pulls its messages from the outbox. Ids are assigned and queued under one lock, so they ascend on the wire.

    A signal handler may raise anywhere in a thread that is in here. Locks are entered only with `with`, so that none
    stays held. The change that the thread was making may be half done: another thread must then close the stream.

    Args:
        address: Address of the server, for error texts.

    Attributes:
        opened: The server's first message on the stream; None before it came.
        takes_requests: Whether a request may still be started here.
    """

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.opened: pb.StreamOpened | None = None
        self.takes_requests = True
        self._outbox = Outbox()
        self._lock = threading.Lock()
        self._pending: dict[int, Exchange] = {}
        self._last_id = 0
        self._opened = Latch()
        self._close_error: MseGradError | None = None
        # The reason of a GoAway in place of the opening: the server refuses the stream.
        self._turned_away: MseGradError | None = None
        self._going_away = False
        self._has_finished = False

    @classmethod
    def open(cls, open_call: Callable[[Outbox], Call], *, address: str) -> Stream:
        """Opens a stream over a call; raises RuntimeError if the system cannot start a thread.

        Args:
            open_call: Starts the call, which pulls its messages from the outbox.
            address: Address of the server, for error texts.
        """
        stream = cls(address)
        stream._call = open_call(stream._outbox)
        stream._reader.start()
        return stream

    @property
    def has_requests(self) -> bool:
        """Whether a request is under way."""
        return bool(self._pending)

    def wait_opened(self, timeout_s: float | None) -> pb.Limits | None:
        """Returns the server's limits once the stream is open, or None if it is not open within `timeout_s`.

        Raises:
            MseGradError: The stream ended before it opened.
        """
        if self.opened is None and not self._opened.wait(timeout_s):
            return None
        if self.opened is None:
            raise self._refusal()
        return self.opened.limits

    def start(self, exchange: Exchange) -> int:
        """Queues the request and returns its id on this stream; `finish` or `abandon` must follow.

        Raises:
            MseGradError: The stream takes no further requests; another one will.
        """
        with self._lock:
            if not self.takes_requests:
                raise self._refusal()
            id = self._last_id + 1
            # No chunks if it has no elements.
            self._outbox.open_request(id, exchange.header(id), exchange.first_chunks(id))
            self._last_id = id
            self._pending[id] = exchange
        self._send_for(exchange)
        return id

    def finish(self, id: int, exchange: Exchange) -> None:
        """Blocks until the exchange needs its caller, or its gradient is whole.

        Raises:
            MseGradError: The request failed.
        """
        try:
            if exchange.has_deadline or not self.read(exchange.needs_caller):
                self._reader_wanted.ring()
            exchange.wait()
        except MseGradError:
            self.abandon(id, exchange)
            raise

    def abandon(self, id: int, exchange: Exchange) -> None:
        """Gives up a started request, in place of `finish`; nothing is written to its gradient from now on."""
        exchange.abandon()
        self._cancel_request(id)

    def follow(self, id: int, exchange: Exchange) -> None:
        """Queues the chunks of a started request that are ready by now."""
        with self._lock:
            while (chunk := exchange.next_chunk(id)) is not None:
                self._outbox.add_chunk(id, chunk)
        self._send_for(exchange)

    def finish_if_idle(self) -> bool:
        """Closes this side for good, unless a request is under way; the server then closes its own."""
        with self._lock:
            if self._pending:
                return False
            self.takes_requests, self._going_away = False, True
        self._finish()
        self._reader_wanted.ring()  # no caller waits to see the end
        return True

    def close(self, error: MseGradError) -> None:
        """Ends the call; open requests fail with `error`. Waits a bounded time for the end of the reader thread.

        An idle stream ends with this side first: gRPC's server leaks 80 bytes and more for each call that is cancelled.

        Afterwards nothing refers to the call. gRPC's call acquires a lock when it is collected. If the interpreter
        collected it while it ends, one of gRPC's threads, stopped by then, could hold that lock for ever.
        """
        self._close_error = error
        is_other_thread = self._reader is not threading.current_thread()
        if self.opened is not None and is_other_thread and self.finish_if_idle():
            self._reader.join(_FINISH_S)
        call = self._call
        if call is not None:
            call.cancel()
        self._reader_wanted.ring()
        if is_other_thread:
            self._reader.join(_CLOSE_TIMEOUT_S)
        self._end(error)  # if the thread that read was interrupted

    def _cancel_request(self, id: int) -> None:
        with self._lock:
            exchange = self._pending.get(id)
            if exchange is None:
                return
            if self._outbox.remove(id):  # the server never learns of it
                del self._pending[id]
                exchange.server_done()
                return
            if not exchange.is_shared:  # the server must still say when it no longer writes to shared memory
                del self._pending[id]
            self._outbox.add_cancellation(id)
        self.wake()
        self._reader_wanted.ring()  # no caller waits to see the cancellation sent

    def _send_for(self, exchange: Exchange) -> None:
        self.wake() if exchange.task is None else exchange.task.send_soon(self)

    def _finish(self) -> None:
        with self._lock:
            call = None if self._has_finished else self._call
            self._has_finished = True
        if call is not None:
            call.finish()

    @override
    def _is_idle(self) -> bool:
        is_awaited = self._pending and not self.is_read_by_loop
        if is_awaited or self._going_away or self._close_error or not self._opened.is_set():
            return False
        return not self.is_sending

    @override
    def _dispatch(self, message: bytes) -> None:
        response = decode_stream_response(message)
        follows = False
        for result in response.results:
            exchange = self._pending.get(result.id)
            if exchange is None:
                continue  # abandoned while its answers were on their way
            has_ended = exchange.receive(result)
            with self._lock:  # `start` may still be queueing the first window of this request
                if has_ended:
                    self._pending.pop(result.id, None)
                else:
                    while (chunk := exchange.next_chunk(result.id)) is not None:
                        self._outbox.add_chunk(result.id, chunk)
                        follows = True
        if follows:
            self.wake()
        for failed in response.errors:
            exchange = self._pending.get(failed.id)
            if exchange is not None:
                self._fail(failed.id, exchange, from_status(failed.status))
        if response.opened is not None:
            self.opened = response.opened
            self._outbox.most_bytes = response.opened.limits.max_stream_message_bytes
            self._opened.set()
        if response.go_away is not None:
            self._leave(response.go_away)
        if self._going_away and not self._pending:
            self._finish()  # the server waits for it

    def _leave(self, go_away: pb.GoAway) -> None:
        # The server has not accepted the requests after last_id: they start again on another stream.
        error = from_status(go_away.status)
        if self.opened is None:
            self._turned_away = error
        with self._lock:
            self.takes_requests, self._going_away = False, True
            refused = [(id, exchange) for id, exchange in self._pending.copy().items() if id > go_away.last_id]
        self._reader_wanted.ring()  # no caller waits to see the end
        for id, exchange in refused:
            self._fail(id, exchange, copy.copy(error))

    def _fail(self, id: int, exchange: Exchange, error: MseGradError) -> None:
        # This order matters: if the thread is interrupted, the request stays in `_pending` until its caller has been
        # told that it ended.
        with self._lock:
            exchange.server_done()
            exchange.fail(error)
            self._pending.pop(id, None)

    @override
    def _end(self, error: MseGradError) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        with self._lock:
            self.takes_requests = False
            self._end_error = error = self._end_error or self._close_error or self._turned_away or error
            orphans = self._pending.copy().items()
        self._outbox.clear()
        self._opened.set()
        self._reader_wanted.ring()
        for id, exchange in orphans:
            exchange.fail(copy.copy(error))
            self._pending.pop(id, None)

    def _refusal(self) -> MseGradError:
        leaving = f"{self._address} takes no further requests on this stream"
        return copy.copy(self._end_error) or Unavailable(leaving, reason=Reason.DRAINING)
