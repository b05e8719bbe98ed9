"""HTTP/2 as an attacker sends it: RPCs frame by frame, half messages and closed windows, with every byte counted."""

from __future__ import annotations

import gzip
import socket
import struct
from collections.abc import Callable, Sequence
from types import TracebackType

__all__ = ["PREFACE", "Http2", "compressed", "frame", "framed", "header_block", "request_fields"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_CANCEL = 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_MOST_FRAME_BYTES = 16384
_INITIAL_WINDOW_SIZE = 4
# HPACK's names of the six headers of `request_fields` in the dynamic table, whose newest entry follows 61 static ones.
_INDICES = bytes(0x80 | 61 + at for at in (6, 5, 4, 3, 2, 1))


class Http2:
    """A connection; closed at the end of `with`.

    Attributes:
        sent_bytes: Bytes that were sent.
    """

    def __init__(self, address: str, *, window_bytes: int = 65535) -> None:
        """Connects.

        Args:
            address: "host:port".
            window_bytes: How much of each answer the client accepts; it never opens the window further.
        """
        host, _, port = address.rpartition(":")
        self.sent_bytes = 0
        self._next_stream = 1
        self._indices = b""
        self._socket = socket.create_connection((host, int(port)), timeout=20.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack("!HI", _INITIAL_WINDOW_SIZE, window_bytes)
        self._send(PREFACE + frame(_SETTINGS, 0, 0, settings))

    def __enter__(self) -> Http2:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def open(
        self,
        method: str,
        data: bytes = b"",
        *,
        ends: bool = False,
        encoding: str = "",
        metadata: Sequence[tuple[str, str]] = (),
        is_indexed: bool = False,
    ) -> int:
        """Begins an RPC, sends `data` on it, which may be half a message, and returns its number.

        Args:
            method: The path, which need not be one that gRPC allows.
            data: Bytes of the RPC.
            ends: Whether the client has said all.
            encoding: Compression that the client names.
            metadata: Further headers.
            is_indexed: Whether HPACK names the headers by their indices, from the second such RPC on, which takes the
                fewest bytes. All such RPCs of a connection have the same headers.
        """
        number = self._next_stream
        self._next_stream += 2
        headers = _headers(method, encoding, metadata)
        if is_indexed:
            headers, self._indices = self._indices or _indexed(request_fields(method)), _INDICES
        frames = frame(_HEADERS, _END_HEADERS | (_END_STREAM if ends and not data else 0), number, headers)
        self._send(frames + _data_frames(number, data, ends=ends))
        return number

    def reset(self, number: int) -> None:
        """Resets an RPC, as a client does that cancels it."""
        self._send(frame(_RST_STREAM, 0, number, struct.pack("!I", _CANCEL)))

    def open_wide(self, block: bytes, *, is_complete: bool = True) -> int:
        """Begins an RPC whose headers take many frames, and returns its number.

        Args:
            block: Its headers as HPACK.
            is_complete: Whether the last frame says that it is the last.
        """
        number = self._next_stream
        self._next_stream += 2
        cuts = range(0, len(block), _MOST_FRAME_BYTES)
        for at in cuts:
            self._send(
                frame(
                    _CONTINUATION if at else _HEADERS,
                    _END_HEADERS if is_complete and at == cuts[-1] else 0,
                    number,
                    block[at : at + _MOST_FRAME_BYTES],
                )
            )
        return number

    def ping(self, count: int) -> None:
        """Sends pings without reading their answers."""
        self._send(b"".join(frame(_PING, 0, 0, at.to_bytes(8)) for at in range(count)))

    def change_settings(self, count: int) -> None:
        """Sends settings, each of which the server acknowledges, without reading that."""
        self._send(frame(_SETTINGS, 0, 0, struct.pack("!HI", _INITIAL_WINDOW_SIZE, 65535)) * count)

    def send(self, number: int, data: bytes, *, ends: bool = False) -> None:
        """Sends more of an RPC's bytes."""
        self._send(_data_frames(number, data, ends=ends))

    def fill(self, number: int, data: bytes, *, patience_s: float = 1.0) -> int:
        """Sends as much more of an RPC's bytes as the server opens windows for; returns the number of bytes sent."""
        self._socket.settimeout(patience_s)
        call_bytes, connection_bytes, at = 65535, 65535, 0
        initial_bytes = 65535
        try:
            while at < len(data):
                size_bytes = min(call_bytes, connection_bytes, len(data) - at)
                if size_bytes > 0:
                    self._send(_data_frames(number, data[at : at + size_bytes], ends=False))
                    at += size_bytes
                    call_bytes -= size_bytes
                    connection_bytes -= size_bytes
                    continue
                kind, flags, stream, payload = self._frame()
                if kind == _SETTINGS and not flags & _ACK:
                    for entry in range(0, len(payload), 6):
                        name, value = struct.unpack_from("!HI", payload, entry)
                        if name == _INITIAL_WINDOW_SIZE:
                            call_bytes, initial_bytes = call_bytes + value - initial_bytes, value
                    self._send(frame(_SETTINGS, _ACK, 0, b""))
                elif kind == _PING and not flags & _ACK:
                    self._send(frame(_PING, _ACK, 0, payload))
                elif kind == _WINDOW_UPDATE:
                    more_bytes = int.from_bytes(payload) & 0x7FFFFFFF
                    call_bytes += more_bytes if stream == number else 0
                    connection_bytes += more_bytes if not stream else 0
                elif kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
                    return at
        except (TimeoutError, ConnectionError):
            pass
        return at

    def ended(self, number: int) -> None:
        """Waits until the server has ended an RPC, by a status or by a reset."""
        self._until(
            lambda kind, flags: kind == _RST_STREAM or bool(kind in (_DATA, _HEADERS) and flags & _END_STREAM), number
        )

    def was_reset(self, number: int) -> None:
        """Waits until the server has reset an RPC (RST_STREAM), after which it holds nothing for it."""
        self._until(lambda kind, _: kind == _RST_STREAM, number)

    def _until(self, is_it: Callable[[int, int], bool], number: int) -> None:
        self._socket.settimeout(20.0)
        while True:
            kind, flags, stream, payload = self._frame()
            if kind == _PING and not flags & _ACK:
                self._send(frame(_PING, _ACK, 0, payload))
            if stream == number and is_it(kind, flags):
                return

    def _frame(self) -> tuple[int, int, int, bytes]:
        """Returns type, flags, stream and payload of the next frame."""
        head = self._read(9)
        return head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, self._read(int.from_bytes(head[:3]))

    def _read(self, size_bytes: int) -> bytes:
        parts = b""
        while len(parts) < size_bytes:
            part = self._socket.recv(size_bytes - len(parts))
            if not part:
                raise ConnectionError("the server has closed the connection")
            parts += part
        return parts

    def _send(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        self._socket.sendall(data)


def framed(message: bytes, *, is_compressed: bool = False) -> bytes:
    """Returns `message` as gRPC sends it."""
    return struct.pack("!BI", is_compressed, len(message)) + message


def compressed(message: bytes) -> bytes:
    """Returns `message` as gRPC sends it with gzip."""
    return framed(gzip.compress(message, 9), is_compressed=True)


def _headers(method: str, encoding: str, metadata: Sequence[tuple[str, str]]) -> bytes:
    more = [("grpc-encoding", encoding)] if encoding else []
    return header_block(
        [*request_fields(method), *((name.encode(), value.encode()) for name, value in (*more, *metadata))]
    )


def request_fields(method: str) -> list[tuple[bytes, bytes]]:
    """Returns the headers with which every RPC begins."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", method.encode()),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]


def header_block(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns names and values as HPACK literals without indexing, RFC 7541 section 6.2.2."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _indexed(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Returns names and values as HPACK literals that the server indexes, RFC 7541 section 6.2.1."""
    return b"".join(b"\x40" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    """Returns a string literal behind its length, an integer with a prefix of seven bits (RFC 7541 section 5.1)."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    length, rest = [127], len(text) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes((*length, rest)) + text


def _data_frames(number: int, data: bytes, *, ends: bool) -> bytes:
    cuts = range(0, len(data), _MOST_FRAME_BYTES)
    return b"".join(
        frame(
            _DATA,
            _END_STREAM if ends and at == cuts[-1] else 0,
            number,
            data[at : at + _MOST_FRAME_BYTES],
        )
        for at in cuts
    )


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    """Returns a frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + struct.pack("!I", number) + payload
