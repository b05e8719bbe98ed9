"""Choice of the worker that takes the next request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from mse_grad.reasons import Reason
from mse_grad_client.errors import MseGradError, Unavailable
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.connection import Connection

__all__ = ["WorkerAssignment", "WorkerPool"]


class WorkerPool:
    """Connections to the workers of the server at the given address. Thread-safe.

    Args:
        given: Connection to the address that the user gave; takes all requests while no worker is in use.
        connect: Returns a connection to an address.

    Attributes:
        given: Connection to the address that the user gave.
        in_use: Workers that take requests, least recently picked first. May be read without a lock.
        refresh_wanted: Set after a worker was lost, so that discovery asks the server again.
    """

    def __init__(self, given: Connection, connect: Callable[[str], Connection]) -> None:
        self.given = given
        self.in_use: list[Connection] = []
        self.refresh_wanted = Latch()
        self._connect = connect
        self._lock = threading.Lock()
        self._known: dict[str, Connection] = {}

    def assign(self, size_bytes: int) -> WorkerAssignment:
        """Returns a claim of a request with `size_bytes` of predict on the worker that is to take it."""
        if not self.in_use:
            return WorkerAssignment(self, self.given, 0)
        return WorkerAssignment(self, self.pick(size_bytes), size_bytes)

    def pick(self, size_bytes: int) -> Connection:
        """Returns the worker with the fewest bytes in flight and adds `size_bytes` to it; `release` must follow.

        Ties go to the least recently picked worker. If no worker is available, the given address takes the request.
        """
        with self._lock:
            chosen = self.given
            while self.in_use:
                chosen = min(self.in_use, key=_in_flight_bytes)
                self.in_use.remove(chosen)
                if chosen.takes_requests:
                    self.in_use.append(chosen)
                    break
                self.refresh_wanted.set()
                chosen = self.given
            chosen.in_flight_bytes += size_bytes
            return chosen

    def release(self, connection: Connection, size_bytes: int) -> None:
        """Subtracts `size_bytes` from the bytes in flight of a connection that `pick` returned."""
        with self._lock:
            connection.in_flight_bytes -= size_bytes

    def worker(self, address: str) -> Connection:
        """Returns the connection to a worker, in use or not; makes it if it is new."""
        with self._lock:
            if address not in self._known:
                is_given = address == self.given.address
                self._known[address] = self.given if is_given else self._connect(address)
            return self._known[address]

    def take_up(self, worker: Connection) -> None:
        """Puts `worker`, which has just answered, in use; it takes the next request."""
        with self._lock:
            if worker not in self.in_use:
                worker.forget_ended_stream()
                self.in_use.insert(0, worker)

    def leave_out(self, connection: Connection) -> bool:
        """Takes `connection` out of use; returns whether it is one of the workers."""
        with self._lock:
            if connection in self.in_use:
                self.in_use.remove(connection)
                self.refresh_wanted.set()
            return self._known.get(connection.address) is connection

    def keep(self, addresses: Collection[str]) -> None:
        """Forgets the workers at other addresses, each once its requests are answered."""
        with self._lock:
            gone = [worker for address, worker in self._known.items() if address not in addresses]
            self.in_use = [worker for worker in self.in_use if worker not in gone]
            idle = [worker for worker in gone if not worker.in_flight_bytes]
            for worker in idle:
                del self._known[worker.address]
        for worker in idle:
            if worker is not self.given:
                worker.close(Replaced(f"{worker.address} is no longer a worker", reason=Reason.CONNECTION_LOST))

    def close(self, error: MseGradError) -> None:
        """Ends every connection for good; requests under way fail with `error`."""
        with self._lock:
            workers = list(self._known.values())
        self.given.close(error)
        for worker in workers:
            worker.close(error)

    def release_locks(self) -> None:
        """Releases the locks of gRPC that an interrupted thread, this one, holds; the pool may only be closed then."""
        for connection in (self.given, *tuple(self._known.values())):
            connection.release_locks()


class WorkerAssignment:
    """A request's claim on a worker; see stream.pending.Assignment.

    Args:
        pool: The pool of the worker.
        connection: The connection to the worker.
        size_bytes: Bytes that the pool counts as in flight until the request ends.

    Attributes:
        connection: As given.
        is_worker_left_out: Whether the worker failed the request, so that later ones go to others.
    """

    __slots__ = ("_pool", "_size_bytes", "connection", "is_worker_left_out")

    def __init__(self, pool: WorkerPool, connection: Connection, size_bytes: int) -> None:
        self.connection = connection
        self.is_worker_left_out = False
        self._pool = pool
        self._size_bytes = size_bytes

    def end(self, error: MseGradError | None) -> None:
        """Releases the claim, and leaves the worker out if `error` says that it is unavailable.

        A second call releases nothing: a caller that was interrupted cancels a request that may have ended.
        """
        size_bytes, self._size_bytes = self._size_bytes, 0
        if size_bytes:
            self._pool.release(self.connection, size_bytes)
        if error is not None:
            self.connection.note_failure(error)
            if isinstance(error, Unavailable) and not isinstance(error, Replaced):
                self.is_worker_left_out = self._pool.leave_out(self.connection)


def _in_flight_bytes(worker: Connection) -> int:
    return worker.in_flight_bytes
