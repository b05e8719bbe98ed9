"""Choice of the worker that takes the next request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable

from mse_grad.reasons import Reason
from mse_grad_client.chance import two_below
from mse_grad_client.errors import DeadlineExceeded, MseGradError, Unavailable
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.connection import Connection

__all__ = ["WorkerAssignment", "WorkerPool"]

# From this number of workers on, two random ones are compared, not all. The busiest worker has hardly more to do then:
# Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing".
_MANY = 16

# Requests with short deadlines have all servers asked at most this often.
_DOUBT_PERIOD_S = 1.0


class WorkerPool:
    """Connections to the workers of all servers at the given address. Thread-safe.

    Args:
        given: Connection that takes all requests while no worker is in use: to the one server that the user gave, or a
            NoServer if there may be many.
        connect: Returns a connection to an address, its first argument. The second is the address that the user gave
            for the server.
        has_many: Whether there may be many servers.

    Attributes:
        given: As given.
        has_many: As given.
        in_use: Workers that take requests, least recently picked first. May be read without a lock.
        refresh_wanted: Set after a worker was lost, or may be, so that discovery asks the servers again.
    """

    def __init__(self, given: Connection, connect: Callable[[str, str], Connection], *, has_many: bool = False) -> None:
        self.given = given
        self.has_many = has_many
        self.in_use: list[Connection] = []
        self.refresh_wanted = Latch()
        self._connect = connect
        self._lock = threading.Lock()
        self._known: dict[str, Connection] = {}
        self._turn = 0
        self._next_doubt_s = 0.0

    def assign(self, size_bytes: int) -> WorkerAssignment:
        """Returns a claim of a request with `size_bytes` of predict on the worker that is to take it."""
        if not self.in_use:
            return WorkerAssignment(self, self.given, 0)
        return WorkerAssignment(self, self.pick(size_bytes), size_bytes)

    def assign_call(self, size_bytes: int) -> WorkerAssignment:
        """Returns a claim of a unary RPC.

        It goes to the one given server; of many, to a worker as `assign` picks it, or, without a size, always to the
        first in use, so that answers fit together.
        """
        if not self.has_many:
            return WorkerAssignment(self, self.given, 0)
        if size_bytes:
            return self.assign(size_bytes)
        with self._lock:
            first = next((known for known in self._known.values() if known in self.in_use), self.given)
        return WorkerAssignment(self, first, 0)

    def pick(self, size_bytes: int) -> Connection:
        """Returns the worker with the fewest bytes in flight and adds `size_bytes` to it; `release` must follow.

        Ties go to the worker whose turn is next, and then to the least recently picked one. A large request delays the
        next turn of its worker more than a small one: otherwise a loop over tensors of different sizes could send every
        large one to the same worker. Turns that pass while others were less busy are lost, so that a slow worker is not
        flooded later. Of many workers it is the less busy of two random ones. If no worker is available, the given
        address takes the request. Source of the turns: Goyal, Vin, Cheng, "Start-time Fair Queueing".
        """
        with self._lock:
            chosen = self.given
            while self.in_use:
                among: Iterable[Connection] = self.in_use
                if len(self.in_use) >= _MANY:
                    among = (self.in_use[index] for index in two_below(len(self.in_use)))
                chosen = min(among, key=self._rank)
                self.in_use.remove(chosen)
                if chosen.takes_requests:
                    self.in_use.append(chosen)
                    break
                self.refresh_wanted.set()
                chosen = self.given
            chosen.in_flight_bytes += size_bytes
            self._turn = self._turn_of(chosen)
            chosen.turn = self._turn + size_bytes
            return chosen

    def release(self, connection: Connection, size_bytes: int) -> None:
        """Subtracts `size_bytes` from the bytes in flight of a connection that `pick` returned."""
        with self._lock:
            connection.in_flight_bytes -= size_bytes

    def worker(self, address: str, given: str) -> Connection:
        """Returns the connection to a worker, in use or not; makes it if it is new.

        Args:
            address: Address of the worker.
            given: Address that the user gave for its server.
        """
        with self._lock:
            if address not in self._known:
                is_given = address == self.given.address and not self.has_many
                self._known[address] = self.given if is_given else self._connect(address, given)
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

    def doubt(self) -> None:
        """A worker did not answer in time: has discovery ask whether its server is there, if there may be others."""
        now_s = time.monotonic()
        if self.has_many and now_s >= self._next_doubt_s:
            self._next_doubt_s = now_s + _DOUBT_PERIOD_S
            self.refresh_wanted.set()

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
        for connection in (self.given, *list(self._known.values())):
            connection.release_locks()

    def _rank(self, worker: Connection) -> tuple[int, int]:
        return worker.in_flight_bytes, self._turn_of(worker)

    def _turn_of(self, worker: Connection) -> int:
        return max(worker.turn, self._turn)


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
            elif isinstance(error, DeadlineExceeded):
                self._pool.doubt()
