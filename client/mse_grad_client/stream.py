"""One live `StreamGradients` RPC, shared by any number of threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import NamedTuple

import grpc

from mse_grad.frame import Chunk, Header, decode_stream_response, encode_stream_request
from mse_grad.reasons import ContractError, Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import InternalError, MseGradError, Unavailable, from_rpc_error, from_status
from mse_grad_client.exchange import Exchange

__all__ = ["Stream"]

METHOD = "/mse_grad.v1.MseGradService/StreamGradients"

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
    """Sends exchanges over one RPC and hands them their answers.

    Two threads serve it: gRPC's own, which pulls messages from `_messages`, and the reader, which takes answers. Ids
    are given out and queued under one lock, so they ascend on the wire as the contract asks.
    """

    def __init__(self, channel: grpc.Channel, *, address: str) -> None:
        self._address = address
        self._outbox: SimpleQueue[_Item | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[int, Exchange] = {}
        self._last_id = 0
        self._opened = threading.Event()
        self._limits: pb.Limits | None = None
        self._close_error: MseGradError | None = None
        self._end_error: MseGradError | None = None
        self._going_away = False
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        call = method(self._messages())
        self._call: grpc.Call | None = call
        self._reader = threading.Thread(target=self._read, args=(call,), name="mse-grad-reader", daemon=True)
        self._reader.start()

    @property
    def takes_requests(self) -> bool:
        """Whether a request may still be started here."""
        return self._end_error is None and not self._going_away

    def wait_opened(self, timeout_s: float | None) -> pb.Limits | None:
        """Returns the server's limits once the stream is open, or None where it is not within `timeout_s`.

        Raises:
            MseGradError: The stream ended before it opened.
        """
        if self._limits is None and not self._opened.wait(timeout_s):
            return None
        if self._limits is None:
            raise self._refusal()
        return self._limits

    def start(self, exchange: Exchange) -> int:
        """Queues the request and returns its id on this stream.

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
                self._outbox.put(_Item(header, chunk))
                header = None
            if header is not None:  # no elements, no chunk
                self._outbox.put(_Item(header, None))
        return id

    def cancel(self, id: int) -> None:
        """Tells the server that nobody waits for `id`; does nothing where it has ended."""
        with self._lock:
            if self._pending.pop(id, None) is not None:
                self._outbox.put(_Item(None, None, id))

    def close(self, error: MseGradError) -> None:
        """Ends the RPC; requests still open fail with `error`. Returns when the reader thread has ended.

        Nothing refers to the RPC any more then. gRPC's call takes a lock when it is collected; where that were left to
        the end of the interpreter, one of gRPC's threads, stopped by then, could hold the lock for ever.
        """
        self._close_error = error
        self._outbox.put(None)
        self._cancel_call()
        if self._reader is not threading.current_thread():
            self._reader.join()

    def _messages(self) -> Iterator[bytes]:
        # Encoded here, when gRPC is ready to send: what waits costs no memory, and what waited together goes together.
        while (item := self._outbox.get()) is not None:
            headers, chunks, cancel_ids = [], [], []
            size_bytes, ended = 0, False
            for _ in range(_PACK_ITEMS):
                if item.header is not None:
                    headers.append(item.header)
                if item.chunk is not None:
                    chunks.append(item.chunk)
                if item.cancel_id:
                    cancel_ids.append(item.cancel_id)
                size_bytes += item.size_bytes
                if size_bytes >= _PACK_BYTES:
                    break
                try:
                    following = self._outbox.get_nowait()
                except Empty:
                    break
                if following is None:
                    ended = True
                    break
                item = following
            yield encode_stream_request(headers, chunks, cancel_ids)
            if ended:
                return

    def _read(self, answers: Iterator[bytes]) -> None:
        error: MseGradError = InternalError("the thread that reads answers failed")
        try:
            for message in answers:
                self._dispatch(message)
            error = Unavailable(f"{self._address} ended the stream", reason=Reason.CONNECTION_LOST)
        except grpc.RpcError as ended:
            # gRPC raises the call itself; its traceback would be a cycle, which `close` could not free.
            error = from_rpc_error(ended.with_traceback(None), address=self._address)
        except ContractError as broken:
            self._cancel_call()
            error = InternalError(f"{self._address} broke the contract: {broken}")
        finally:
            self._end(error)

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _dispatch(self, message: bytes) -> None:
        response = decode_stream_response(message)
        for result in response.results:
            exchange = self._pending.get(result.id)
            if exchange is None:
                continue  # abandoned; its answers were under way
            ended = exchange.take(result)
            with self._lock:  # `start` may still be queueing this request's first window
                if ended:
                    self._pending.pop(result.id, None)
                elif (chunk := exchange.next_chunk(result.id)) is not None:
                    self._outbox.put(_Item(None, chunk))
        for failed in response.errors:
            with self._lock:
                exchange = self._pending.pop(failed.id, None)
            if exchange is not None:
                exchange.fail(from_status(failed.status))
        if response.opened is not None:
            self._limits = response.opened.limits
            self._opened.set()
        if response.go_away is not None:
            self._leave(response.go_away)

    def _leave(self, go_away: pb.GoAway) -> None:
        # The server never took what came after last_id: those start again on another stream.
        error = from_status(go_away.status)
        with self._lock:
            self._going_away = True
            untaken = [self._pending.pop(id) for id in list(self._pending) if id > go_away.last_id]
        for exchange in untaken:
            exchange.fail(copy.copy(error))

    def _end(self, error: MseGradError) -> None:
        with self._lock:
            self._end_error = error = self._close_error or error
            orphans = list(self._pending.values())
            self._pending.clear()
        self._outbox.put(None)
        self._opened.set()
        for exchange in orphans:
            exchange.fail(copy.copy(error))

    def _refusal(self) -> MseGradError:
        if self._end_error is not None:
            return copy.copy(self._end_error)
        return Unavailable(f"{self._address} takes no further requests on this stream", reason=Reason.DRAINING)
