"""One live stream of requests, a `StreamGradients` RPC or packets, shared by any number of threads."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import grpc

from mse_grad.frame import Chunk, Header, decode_stream_response, encode_stream_request
from mse_grad.reasons import ContractError, Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.call import Call
from mse_grad_client.errors import InternalError, MseGradError, Unavailable, from_rpc_error, from_status
from mse_grad_client.exchange import Exchange

__all__ = ["Stream"]

# What waits in the outbox is packed into one message up to these bounds; measured, 64 small gradients are the peak.
_PACK_ITEMS = 64
_PACK_BYTES = 64 * 1024
# What a packed message may hold beside its last chunk: other small chunks and the headers.
MESSAGE_RESERVE_BYTES = _PACK_BYTES + _PACK_ITEMS * 512


class _Item(NamedTuple):
    header: Header | None
    chunk: Chunk | None
    cancel_id: int = 0

    @property
    def size_bytes(self) -> int:
        if self.chunk is None:
            return 0
        return len(self.chunk.predict) + len(self.chunk.label) + len(self.chunk.dout)


class Stream:
    """Sends exchanges over one call and hands them their answers.

    The call pulls its messages from `_next_message`. Answers are read by the caller that waits for one, which spares a
    wake-up (a fifth of a small gradient's time); where several wait, or one with a deadline, which a read could not
    keep, by the stream's reader thread. Ids are given out and queued under one lock, so they ascend on the wire.

    Attributes:
        opened: What the server said when it opened the stream; None before that.
    """

    def __init__(self, open_call: Callable[[Callable[[], bytes | None]], Call], *, address: str) -> None:
        """Opens it.

        Args:
            open_call: Starts the call, which pulls its messages from what it is given.
            address: Of the server, for messages.
        """
        self._address = address
        self._outbox: deque[_Item] = deque()
        self._lock = threading.Lock()
        self._pending: dict[int, Exchange] = {}
        self._last_id = 0
        self._opened = threading.Event()
        self.opened: pb.StreamOpened | None = None
        self._close_error: MseGradError | None = None
        self._end_error: MseGradError | None = None
        self._going_away = False
        self._call: Call | None = open_call(self._next_message)
        self._reading = threading.Lock()  # held by the thread that reads answers
        self._reader_wanted = threading.Semaphore()  # at once, for the opening
        self._reader = threading.Thread(target=self._read_when_wanted, name="mse-grad-reader", daemon=True)
        self._reader.start()

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes any more."""
        return self._end_error is not None

    @property
    def takes_requests(self) -> bool:
        """Whether a request may still be started here."""
        return self._end_error is None and not self._going_away

    def wait_opened(self, timeout_s: float | None) -> pb.Limits | None:
        """Returns the server's limits once the stream is open, or None where it is not within `timeout_s`.

        Raises:
            MseGradError: The stream ended before it opened.
        """
        if self.opened is None and not self._opened.wait(timeout_s):
            return None
        if self.opened is None:
            raise self._refusal()
        return self.opened.limits

    def start(self, exchange: Exchange) -> int:
        """Queues the request and returns its id on this stream; `finish` or `abandon` has to follow.

        Raises:
            MseGradError: The stream takes no requests any more; another one will.
        """
        with self._lock:
            if not self.takes_requests:
                raise self._refusal()
            self._last_id += 1
            id = self._last_id
            self._pending[id] = exchange
            header: Header | None = exchange.header(id)
            for chunk in exchange.first_chunks(id):
                self._outbox.append(_Item(header, chunk))
                header = None
            if header is not None:  # no elements, no chunk
                self._outbox.append(_Item(header, None))
        self._wake()
        return id

    def finish(self, id: int, exchange: Exchange) -> None:
        """Blocks until the gradient of a started request is whole; raises MseGradError where it failed."""
        try:
            if not exchange.has_deadline and self._reading.acquire(blocking=False):
                try:
                    self._read_until(lambda: exchange.has_ended)
                finally:
                    self._reading.release()
            else:
                self._reader_wanted.release()
            exchange.wait()
        except BaseException:  # also an interrupt: the arrays are the caller's again from here on
            self.abandon(id, exchange)
            raise

    def abandon(self, id: int, exchange: Exchange) -> None:
        """Gives a started request up, in place of `finish`; nothing is written to its gradient from now on."""
        exchange.abandon()
        self._cancel_request(id)

    def follow(self, id: int, exchange: Exchange) -> None:
        """Queues the chunks that a started request has ready by now."""
        with self._lock:
            while (chunk := exchange.next_chunk(id)) is not None:
                self._outbox.append(_Item(None, chunk))
        self._wake()

    def close(self, error: MseGradError) -> None:
        """Ends the RPC; requests still open fail with `error`. Returns when the reader thread has ended.

        Nothing refers to the RPC any more then. gRPC's call takes a lock when it is collected; where that were left to
        the end of the interpreter, one of gRPC's threads, stopped by then, could hold the lock for ever.
        """
        self._close_error = error
        call = self._call
        if call is not None:
            call.cancel()
        self._reader_wanted.release()
        if self._reader is not threading.current_thread():
            self._reader.join()

    def _cancel_request(self, id: int) -> None:
        with self._lock:
            exchange = self._pending.get(id)
            if exchange is None:
                return
            if not exchange.is_shared:  # of memory that it shares the server has the last word
                del self._pending[id]
            self._outbox.append(_Item(None, None, id))
        self._wake()
        self._reader_wanted.release()  # to see it sent, which no caller waits for

    def _wake(self) -> None:
        call = self._call
        if call is not None:
            call.wake()

    def _next_message(self) -> bytes | None:
        # Encoded here, when gRPC is ready to send: what waits costs no memory, and what waited together goes together.
        outbox = self._outbox
        if not outbox:
            return None
        headers, chunks, cancel_ids = [], [], []
        size_bytes = 0
        for _ in range(_PACK_ITEMS):
            if not outbox or size_bytes >= _PACK_BYTES:
                break
            item = outbox.popleft()
            if item.header is not None:
                headers.append(item.header)
            if item.chunk is not None:
                chunks.append(item.chunk)
            if item.cancel_id:
                cancel_ids.append(item.cancel_id)
            size_bytes += item.size_bytes
        return encode_stream_request(headers, chunks, cancel_ids)

    def _read_when_wanted(self) -> None:
        while self._end_error is None:
            self._reader_wanted.acquire()
            with self._reading:
                self._read_until(self._is_idle)

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        """Hands out answers until there are enough or the stream has ended; `_reading` is held."""
        error: MseGradError = Unavailable("the thread that read answers was interrupted", reason=Reason.CONNECTION_LOST)
        try:
            call = self._call
            while call is not None and not is_enough():
                self._dispatch(next(call))
                call = self._call
            return
        except StopIteration:
            error = Unavailable(f"{self._address} ended the stream", reason=Reason.CONNECTION_LOST)
        except grpc.RpcError as ended:
            # gRPC raises the call itself; its traceback would be a cycle, which `close` could not free.
            error = from_rpc_error(ended.with_traceback(None), address=self._address)
        except ContractError as broken:
            error = InternalError(f"{self._address} broke the contract: {broken}")
        except BaseException:
            self._end(error)
            raise
        self._end(error)

    def _is_idle(self) -> bool:
        """Whether nothing is to be read: the stream is open, stays so, and nobody waits for an answer."""
        if self._pending or self._going_away or self._close_error or not self._opened.is_set():
            return False
        call = self._call
        return call is None or not call.is_sending

    def _dispatch(self, message: bytes) -> None:
        response = decode_stream_response(message)
        follows = False
        for result in response.results:
            exchange = self._pending.get(result.id)
            if exchange is None:
                continue  # abandoned; its answers were under way
            ended = exchange.take(result)
            with self._lock:  # `start` may still be queueing this request's first window
                if ended:
                    self._pending.pop(result.id, None)
                elif (chunk := exchange.next_chunk(result.id)) is not None:
                    self._outbox.append(_Item(None, chunk))
                    follows = True
        if follows:
            self._wake()
        for failed in response.errors:
            with self._lock:
                exchange = self._pending.pop(failed.id, None)
            if exchange is not None:
                exchange.hear_last()
                exchange.fail(from_status(failed.status))
        if response.opened is not None:
            self.opened = response.opened
            self._opened.set()
        if response.go_away is not None:
            self._leave(response.go_away)

    def _leave(self, go_away: pb.GoAway) -> None:
        # The server never took what came after last_id: those start again on another stream.
        error = from_status(go_away.status)
        with self._lock:
            self._going_away = True
            untaken = [self._pending.pop(id) for id in list(self._pending) if id > go_away.last_id]
        self._reader_wanted.release()  # to see the end, which no caller waits for
        for exchange in untaken:
            exchange.hear_last()
            exchange.fail(copy.copy(error))

    def _end(self, error: MseGradError) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        with self._lock:
            self._end_error = error = self._close_error or error
            orphans = list(self._pending.values())
            self._pending.clear()
        self._opened.set()
        self._reader_wanted.release()
        for exchange in orphans:
            exchange.fail(copy.copy(error))

    def _refusal(self) -> MseGradError:
        if self._end_error is not None:
            return copy.copy(self._end_error)
        return Unavailable(f"{self._address} takes no further requests on this stream", reason=Reason.DRAINING)
