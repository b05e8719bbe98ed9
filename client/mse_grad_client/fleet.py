"""The workers of a server: which the client can reach, and which takes the next request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from mse_grad.reasons import Reason
from mse_grad_client.connection import Connection
from mse_grad_client.errors import MseGradError, Unavailable

__all__ = ["Fleet"]


class Fleet:
    """Connections to the workers of the server at the given address. Any number of threads.

    Args:
        given: The connection to the address that the user gave; what there is while no worker is in use.
        connect: Returns a connection to an address.

    Attributes:
        given: That connection.
        in_use: Workers that take requests, the one that was picked longest ago first. May be looked at without a lock.
        look_wanted: Set where a worker was lost, so that a look at what the server says is worth it.
    """

    def __init__(self, given: Connection, connect: Callable[[str], Connection]) -> None:
        self.given = given
        self.in_use: list[Connection] = []
        self.look_wanted = threading.Event()
        self._connect = connect
        self._lock = threading.Lock()
        self._known: dict[str, Connection] = {}

    def pick(self, size_bytes: int) -> Connection:
        """Returns the worker with the fewest bytes in flight, counting `size_bytes` more; `release` has to follow.

        Of several the one that was picked longest ago; the given address where no worker is in use.
        """
        with self._lock:
            chosen = self.given
            while self.in_use:
                chosen = min(self.in_use, key=_in_flight_bytes)
                self.in_use.remove(chosen)
                if chosen.takes_requests:
                    self.in_use.append(chosen)
                    break
                self.look_wanted.set()
                chosen = self.given
            chosen.in_flight_bytes += size_bytes
            return chosen

    def release(self, connection: Connection, size_bytes: int) -> None:
        """Counts `size_bytes` less in flight on what `pick` returned."""
        with self._lock:
            connection.in_flight_bytes -= size_bytes

    def worker(self, address: str) -> Connection:
        """Returns the connection to a worker, in use or not; a new one where there was none."""
        with self._lock:
            if address not in self._known:
                is_given = address == self.given.address
                self._known[address] = self.given if is_given else self._connect(address)
            return self._known[address]

    def take_up(self, worker: Connection) -> None:
        """Lets requests go to `worker`, next of all; it has just answered."""
        with self._lock:
            if worker not in self.in_use:
                worker.forget_ended_stream()
                self.in_use.insert(0, worker)

    def leave_out(self, connection: Connection) -> bool:
        """Lets no more requests go to `connection`; returns whether it is one of the workers."""
        with self._lock:
            if connection in self.in_use:
                self.in_use.remove(connection)
                self.look_wanted.set()
            return self._known.get(connection.address) is connection

    def keep(self, addresses: Collection[str]) -> None:
        """Forgets the workers at other addresses, once what they were sent is answered."""
        with self._lock:
            gone = [worker for address, worker in self._known.items() if address not in addresses]
            self.in_use = [worker for worker in self.in_use if worker not in gone]
            idle = [worker for worker in gone if not worker.in_flight_bytes]
            for worker in idle:
                del self._known[worker.address]
        for worker in idle:
            if worker is not self.given:
                worker.close(Unavailable(f"{worker.address} is no worker any more", reason=Reason.CONNECTION_LOST))

    def close(self, error: MseGradError) -> None:
        """Ends every connection; requests under way fail with `error`. They open again where one is picked."""
        with self._lock:
            workers = list(self._known.values())
        self.given.close(error)
        for worker in workers:
            worker.close(error)


def _in_flight_bytes(worker: Connection) -> int:
    return worker.in_flight_bytes
