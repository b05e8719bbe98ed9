"""Session of one process with its servers: its connections, and the threads that use them."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError
from mse_grad_client.interrupts import Latch, end_context_managers, is_ours
from mse_grad_client.request import GradientRequest
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.arrivals import Arrivals
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.discovery import Discovery
from mse_grad_client.routing.routes import Routes
from mse_grad_client.routing.target import Target
from mse_grad_client.routing.worker_pool import WorkerPool

__all__ = ["Session", "Visit"]

# A thread that is interrupted again while it replaces the connections tries again this often.
_MAX_INTERRUPTS = 100


class Session:
    """The worker pool of a client, and the discovery that fills it. Thread-safe.

    The whole pool is replaced after an interrupt inside it, at a fork and at close; a separate thread closes the old
    one.

    Args:
        target: Servers that the user gave.
        routes: Makes connections and lookups.
        all_workers: Whether to discover the workers behind the addresses.

    Attributes:
        pool: The pool that requests go to now.
    """

    def __init__(self, target: Target, routes: Routes, *, all_workers: bool) -> None:
        self._target = target
        self._routes = routes
        self._all_workers = all_workers
        self._visits = _Visits()
        self._closing: list[Latch] = []  # one for each pool that is being closed
        self._begin()

    def visit(self, request: GradientRequest | None = None) -> Visit:
        """Returns a context in which this thread may use the pool; `request` is revoked if it is interrupted there."""
        return Visit(self, request)

    def pause(self, timeout_s: float) -> None:
        """Holds new visits back, waits until none is left, and disconnects; `resume` must follow.

        Requests that are still under way after `timeout_s` are sent again after `resume`. Connections that gRPC has not
        closed within another `timeout_s` stay open.
        """
        self._visits.hold_back(timeout_s)
        self._replace(Replaced("the process is forking", reason=Reason.CONNECTION_LOST))
        self._wait_closed(timeout_s)

    def resume(self) -> None:
        """Lets visits in again after `pause`."""
        self._visits.let_through()

    def close(self, error: MseGradError, *, timeout_s: float) -> None:
        """Ends every connection; requests under way fail with `error`.

        Waits for gRPC at most `timeout_s`, but not in a signal handler that interrupted a visit: that very visit may
        keep the connections from closing.
        """
        is_inside = self._visits.is_inside()
        self._replace(error)
        if not is_inside:
            self._wait_closed(timeout_s)

    def recover(self, error: BaseException, request: GradientRequest | None) -> None:
        """Replaces the pool, and revokes `request`, after `error` ended a visit in the middle."""
        interrupts: list[BaseException] = []
        while True:
            try:
                end_context_managers(interrupts[-1] if interrupts else error)
                self._replace(Replaced("another thread was interrupted", reason=Reason.CONNECTION_LOST))
                if request is not None:
                    request.revoke()
                break
            except BaseException as interrupt:  # noqa: BLE001 - raised below
                interrupts.append(interrupt)
                if len(interrupts) > _MAX_INTERRUPTS:
                    break
        if interrupts:
            raise interrupts[-1]

    def _begin(self) -> None:
        target, has_many = self._target, self._target.has_many
        arrivals = Arrivals(self._want_round)
        first = target.first
        given = self._routes.no_server(arrivals, self._is_server_there) if has_many else self._connect(first, first)
        self.pool = WorkerPool(given, self._connect, has_many=has_many)
        self._discovery = Discovery(self.pool, self._routes.lookup(), arrivals, all_workers=self._all_workers)

    def _connect(self, address: str, given: str) -> Connection:
        discovers = self._all_workers or self._target.has_many
        return self._routes.connect(address, given, self._discover if discovers else None)

    def _discover(self) -> None:
        self._discovery.start()

    def _want_round(self) -> None:
        self.pool.refresh_wanted.set()
        self._discovery.start()

    def _is_server_there(self) -> bool:
        return bool(self.pool.in_use)

    def _replace(self, error: MseGradError) -> None:
        """Begins with new connections, and has a thread close the old ones."""
        discovery, pool = self._discovery, self.pool
        self._begin()
        pool.release_locks()
        closed = Latch()

        def close() -> None:
            try:
                discovery.stop()
                pool.close(error)
            finally:
                self._end_closing(closed)

        self._closing.append(closed)  # before it begins, so that a fork in another thread waits for it
        try:
            threading.Thread(target=close, name="mse-grad-closer", daemon=True).start()
        except RuntimeError:  # the interpreter ends
            close()
        except BaseException:
            self._end_closing(closed)
            raise

    def _end_closing(self, closed: Latch) -> None:
        closed.set()
        with suppress(ValueError):
            self._closing.remove(closed)

    def _wait_closed(self, timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        for closed in list(self._closing):
            closed.wait(max(0.0, give_up_s - time.monotonic()))


class Visit:
    """A thread's stay inside of a session, for a `with` statement; yields the worker pool.

    A signal handler may raise anywhere in there: locks of gRPC's stay held, and changes stay half done. The session
    then recovers.

    Args:
        session: The session.
        request: The request that the thread is there for, if any.
    """

    __slots__ = ("_request", "_session")

    def __init__(self, session: Session, request: GradientRequest | None) -> None:
        self._session = session
        self._request = request

    def __enter__(self) -> WorkerPool:
        session = self._session
        session._visits.enter(sys._getframe(1))
        return session.pool

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and not is_ours(error):
                self._session.recover(error, self._request)
        finally:
            self._session._visits.leave()


class _Visits:
    """Records which threads are inside of a client, and can hold new ones back. Thread-safe."""

    def __init__(self) -> None:
        # The frame in which each thread entered. A thread that was interrupted while it left may still be in here.
        self._inside: dict[int, FrameType] = {}
        self._left = Latch()
        self._gate: Latch | None = None

    def enter(self, frame: FrameType) -> None:
        """Lets this thread in, once none are held back; `leave` must follow.

        Args:
            frame: The frame that leaves again.

        Raises:
            RuntimeError: This thread is in the middle of another call of the client.
        """
        thread, inside = threading.get_ident(), self._inside
        if thread in inside and self.is_inside():
            raise RuntimeError(
                "the client was used in a signal handler, or a finalizer, that interrupted a call of the same client; "
                "use another client there, or set a flag and compute when the call has ended"
            )
        inside[thread] = frame
        while (gate := self._gate) is not None:
            del inside[thread]
            self._left.set()
            gate.wait()
            inside[thread] = frame

    def leave(self) -> None:
        """Lets this thread out."""
        self._inside.pop(threading.get_ident(), None)
        if self._gate is not None:
            self._left.set()

    def is_inside(self) -> bool:
        """Whether this thread is in the middle of a call of the client."""
        entered = self._inside.get(threading.get_ident())
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not entered:
            frame = frame.f_back
        return frame is not None

    def hold_back(self, timeout_s: float) -> None:
        """Holds new threads back, and waits until all others have left, at most `timeout_s` seconds."""
        self._gate = Latch()
        give_up_s = time.monotonic() + timeout_s
        while any(thread != threading.get_ident() for thread in list(self._inside)):
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                break
            self._left.wait(left_s)
            self._left.clear()

    def let_through(self) -> None:
        """Lets threads in again after `hold_back`."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()
