"""Direct connection beside the stream of one connection to a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mse_grad.frames import MAX_GREETING_BYTES, head
from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.direct.frame_call import FrameCall
from mse_grad_client.direct.wire import Wire
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.events import Events
from mse_grad_client.interrupts import Latch
from mse_grad_client.stream.stream import Stream

__all__ = ["DirectLink"]

# Longest time for the server to answer the greeting.
_ANSWER_S = 5.0
# Pauses between attempts, which double: a firewall may swallow the port for as long as the stream lives.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_LOST = "it was lost; the next stream brings another one"


class _Attempt:
    """The direct connection beside one stream, or the attempt at one.

    Attributes:
        wire, stream: Both None until the server has opened the connection.
        known: Set once the first attempt has ended.
        is_trying: Whether a thread connects now.
        failure: Why the last attempt failed; "" if none has.
        next_s: Time of the next attempt on the clock of time.monotonic.
        pause_s: Pause before the attempt after the next.
    """

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.stream: Stream | None = None
        self.known = Latch()
        self.is_trying = False
        self.failure = ""
        self.next_s = 0.0
        self.pause_s = _FIRST_PAUSE_S

    def close(self, error: MseGradError) -> None:
        """Ends the connection; requests under way fail with `error`."""
        if self.stream is not None:
            self.stream.close(error)
        if self.wire is not None:
            self.wire.close()


class DirectLink:
    """Opens a direct connection in the background, once for each stream that offers one. Thread-safe.

    Requests take the stream of the RPC until the direct connection stands, and again when it has ended. What keeps it
    from standing, such as a firewall, or a load balancer that leads it to another server, costs no request anything.

    Args:
        connect: Connects to the offered place; raises OSError or MseGradError.
        address: Address of the worker, for error texts.
        events: Told of each connection, and of each attempt that failed.
    """

    def __init__(self, connect: Callable[[pb.DirectOffer], Wire], *, address: str, events: Events) -> None:
        self._connect = connect
        self._address = address
        self._events = events
        self._lock = threading.Lock()
        self._attempts: dict[Stream, _Attempt] = {}
        self._close_error: MseGradError | None = None

    def beside(self, stream: Stream) -> Stream | None:
        """Returns the stream that takes requests beside the open `stream`; None if they have to take `stream` itself.

        It does not wait: if there is none yet, it may begin to connect.
        """
        attempt = self._attempts.get(stream)
        if attempt is None:
            attempt = self._begin(stream)
            if attempt is None:
                return None
        direct = attempt.stream
        if direct is not None:
            if direct.takes_requests:
                return direct
            self._notice_loss(stream, direct, attempt)
            return None
        if not attempt.is_trying and time.monotonic() >= attempt.next_s:
            self._try(stream, attempt)
        return None

    def wait(self, stream: Stream, timeout_s: float) -> bool:
        """Returns whether there is a direct connection beside the open `stream`; waits for the first attempt to end."""
        direct = self.beside(stream)
        attempt = self._attempts.get(stream)
        if direct is None and attempt is not None and attempt.known.wait(timeout_s):
            direct = self.beside(stream)
        return direct is not None

    def failure(self, stream: Stream) -> str:
        """Returns why the connection that is offered beside `stream` does not stand; "" if it does, or none is."""
        attempt = self._attempts.get(stream)
        if attempt is None or (attempt.stream is not None and attempt.stream.takes_requests):
            return ""
        if attempt.stream is not None:
            return _LOST
        if attempt.failure or stream.opened is None:
            return attempt.failure
        return f"{_place(stream.opened.direct)} has not answered yet; a firewall may drop what is sent there"

    def has_requests(self, stream: Stream) -> bool:
        """Returns whether a request is under way beside `stream`."""
        attempt = self._attempts.get(stream)
        return attempt is not None and attempt.stream is not None and attempt.stream.has_requests

    def close(self, error: MseGradError) -> None:
        """Ends every direct connection, and later ones at once; requests under way fail with `error`."""
        self._close_error = error
        with self._lock:
            attempts = list(self._attempts.values())
            self._attempts.clear()
        for attempt in attempts:
            attempt.close(error)

    def _notice_loss(self, stream: Stream, direct: Stream, attempt: _Attempt) -> None:
        if direct.has_ended and stream.takes_requests and not attempt.failure:
            attempt.failure = _LOST
            self._events.not_direct(self._address, _LOST)

    def _begin(self, stream: Stream) -> _Attempt | None:
        if stream.opened is None or not stream.opened.direct.port:
            return None
        with self._lock:
            self._forget_ended()
            return self._attempts.setdefault(stream, _Attempt())

    def _forget_ended(self) -> None:
        for stream, attempt in self._attempts.copy().items():
            if stream.has_ended:
                del self._attempts[stream]
                attempt.close(Unavailable("the stream has ended", reason=Reason.CONNECTION_LOST))

    def _try(self, stream: Stream, attempt: _Attempt) -> None:
        with self._lock:
            if attempt.is_trying:
                return
            attempt.is_trying = True
        thread = threading.Thread(target=self._run, args=(stream, attempt), name="mse-grad-direct", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter ends, or the system starts no further thread
            self._failed(stream, attempt, str(error))
            attempt.is_trying = False
            attempt.known.set()

    def _run(self, stream: Stream, attempt: _Attempt) -> None:
        assert stream.opened is not None
        place = _place(stream.opened.direct)
        wire: Wire | None = None
        try:
            greeting = _greeting(stream.opened)
            wire = self._connect(stream.opened.direct)
            direct = self._open(wire, stream.opened, greeting)
        except (OSError, MseGradError) as cause:  # requests go over the RPC
            if wire is None:
                failure = f"no connection to {place}: {_words(cause)}"
            else:
                wire.close()
                failure = f"{place} answers, but does not open a connection for this stream: {_words(cause)}"
            self._failed(stream, attempt, failure)
        else:
            attempt.wire = wire
            attempt.failure = ""
            attempt.stream = direct
            self._events.directly_connected(self._address)
            error = self._close_error or (stream.has_ended and Unavailable("the stream has ended"))
            if error:  # it was closed, or has ended, meanwhile
                attempt.close(error)
        attempt.is_trying = False
        attempt.known.set()

    def _failed(self, stream: Stream, attempt: _Attempt, failure: str) -> None:
        attempt.failure = failure
        if self._close_error is None and not stream.has_ended:
            self._events.not_direct(self._address, failure)
        attempt.next_s = time.monotonic() + attempt.pause_s
        attempt.pause_s = min(2 * attempt.pause_s, _LONGEST_PAUSE_S)

    def _open(self, wire: Wire, opened: pb.StreamOpened, greeting: bytes) -> Stream:
        wire.send_all(head(len(greeting)) + greeting)
        wire.begin()
        most_bytes = opened.limits.max_stream_message_bytes
        try:
            direct = Stream.open(
                lambda outbox: FrameCall(wire, outbox.next_buffers, most_bytes=most_bytes), address=self._address
            )
        except RuntimeError as cause:  # the system cannot start another thread
            raise OSError(str(cause)) from cause
        try:
            direct.wait_opened(_ANSWER_S)
            if direct.opened is None or direct.opened.instance_id != opened.instance_id:
                raise Unavailable("another server, or none, answered the greeting", reason=Reason.CONNECTION_LOST)
        except MseGradError as error:
            direct.close(error)
            raise
        return direct


def _greeting(opened: pb.StreamOpened) -> bytes:
    """Returns the greeting; raises OSError if it has more bytes than any server takes, which chose them."""
    greeting = pb.DirectGreeting(instance_id=opened.instance_id, secret=opened.direct.secret).SerializeToString()
    if len(greeting) > MAX_GREETING_BYTES:
        raise OSError(f"its offer asks for a greeting of {len(greeting)} bytes; the most is {MAX_GREETING_BYTES}")
    return greeting


def _place(offer: pb.DirectOffer) -> str:
    return f"port {offer.port}{offer.host and f' of {offer.host!r}'}"


def _words(error: OSError | MseGradError) -> str:
    return error.message if isinstance(error, MseGradError) else error.strerror or str(error)
