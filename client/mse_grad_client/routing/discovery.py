"""Discovery of the workers of one or many servers, which keeps the worker pool up to date."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from queue import SimpleQueue

from mse_grad.reasons import Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.errors import (
    ClientClosed,
    DeadlineExceeded,
    InternalError,
    MseGradError,
    Unavailable,
)
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.address import worker_address
from mse_grad_client.routing.arrivals import Arrivals
from mse_grad_client.routing.connection import Connection
from mse_grad_client.routing.info_call import Answer, InfoCall, answer_of
from mse_grad_client.routing.lookup import Lookup
from mse_grad_client.routing.target import Server
from mse_grad_client.routing.worker_pool import WorkerPool

__all__ = ["Discovery"]

# Pause between two checks: at first, doubling while a worker is missing, and at most.
_SOON_S = 0.1
_PERIOD_S = 10.0
# The thread ends in time: cancelled RPCs end at once.
_STOP_TIMEOUT_S = 5.0
# A worker behind a firewall never answers.
_ASK_TIMEOUT_S = 2.0
# Most workers of one server; each takes a connection of this process, and no host has as many devices.
_MOST_WORKERS = 256
# An error about a thousand servers stays readable.
_MOST_FAILURES = 5


class Discovery:
    """A thread that looks up names and asks the servers for their workers: at first, after a loss, and every 10 s.

    A worker is put in use once it has answered, at its own address, that it is ready. So no request goes to an address
    that this client cannot reach, or that belongs to another server. GetServerInfo is the health check too: a server
    that drains says so on each stream at once, and one that cannot compute refuses the first request, so that a watch
    of each server's health would tell nothing earlier. A host that is cut off says nothing: it is left out once it does
    not answer here, and a request that exceeds its deadline has all servers asked.

    Args:
        pool: The worker pool to keep up to date.
        lookup: Returns the servers.
        arrivals: Told of each round and of each worker that is put in use.
        all_workers: Whether to use the workers that servers name; False: the servers' own addresses alone.
    """

    def __init__(self, pool: WorkerPool, lookup: Lookup, arrivals: Arrivals, *, all_workers: bool) -> None:
        self._pool = pool
        self._lookup = lookup
        self._arrivals = arrivals
        self._all_workers = all_workers
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = Latch()
        self._calls: list[InfoCall] = []
        self._endpoints: dict[str, tuple[pb.Endpoint, ...]] = {}  # address of the server -> its workers
        self._instances: dict[Connection, str] = {}

    def start(self) -> None:
        """Starts the thread, unless it runs already."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="mse-grad-discovery", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """Stops the thread for good; returns when it has ended, with its RPCs, or after a few seconds."""
        with self._lock:
            thread = self._thread
            self._stopping.set()
            for call in self._calls:
                call.cancel()
        self._lookup.stop()
        self._pool.refresh_wanted.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = _SOON_S
        while not self._stopping.is_set():
            self._pool.refresh_wanted.clear()
            self._arrivals.begin_round()
            try:
                failures = self._round()
            except (ClientClosed, Replaced):
                return
            except MseGradError as error:  # a certificate or token file cannot be read now
                failures = [error]
            except Exception as error:  # noqa: BLE001 - `open_channel` is the user's; requests must not wait for ever
                failures = [InternalError(f"the servers could not be asked: {type(error).__name__}: {error}")]
            if failures and not self._pool.in_use and not self._stopping.is_set():
                self._arrivals.end_round(_none_ready(failures))
            if self._pool.refresh_wanted.wait(pause_s if failures else _PERIOD_S):
                pause_s = _SOON_S
                self._stopping.wait(_SOON_S)
            else:
                pause_s = min(2 * pause_s, _PERIOD_S)

    def _round(self) -> list[MseGradError]:
        """Asks the servers for their workers, and unused workers for their state; returns why any is not in use."""
        pool = self._pool
        servers = self._lookup.servers()
        failures: list[MseGradError] = [
            Unavailable(f"{name} cannot be looked up: {why}", reason=Reason.CONNECTION_LOST)
            for name, why in self._lookup.errors.items()
        ]
        asked = {pool.worker(*server) if pool.has_many else pool.given: server for server in servers}
        usable: list[Connection] = []
        silent: list[Connection] = []
        for connection, answer in self._ask(tuple(asked)):
            address = connection.address
            if answer.info is not None:
                self._endpoints[address] = tuple(answer.info.endpoints[:_MOST_WORKERS]) if self._all_workers else ()
            failure = answer.failure(address)
            if failure is None:
                usable.append(connection)
            else:
                failures.append(failure)
            if isinstance(answer.error, DeadlineExceeded):
                silent.append(connection)
            if pool.has_many and not self._workers(address):  # it is its own only worker
                self._judge(connection, answer, failure)
        if pool.has_many and 2 * len(silent) <= len(asked):
            self._leave_out_all({connection: asked[connection] for connection in silent})
        failures += self._check_workers(servers)
        if pool.has_many:
            self._use_servers_themselves(asked, usable)
        return failures

    def _workers(self, server: str) -> dict[str, pb.Endpoint]:
        """Returns the workers behind the address of a server by their addresses; none if it has no others."""
        endpoints = self._endpoints.get(server, ())
        if len(endpoints) < 2:  # the given address is the only worker
            return {}
        named = ((worker_address(endpoint.address, given=server), endpoint) for endpoint in endpoints)
        return {address: endpoint for address, endpoint in named if address is not None}

    def _leave_out_all(self, silent: Mapping[Connection, Server]) -> None:
        """Leaves out servers that do not answer in time, with their workers, since others do.

        If most are silent, they are rather too busy, and the rest must not get the load of all.
        """
        for connection, server in silent.items():
            self._pool.leave_out(connection)
            for address in self._workers(server.address):
                self._pool.leave_out(self._pool.worker(address, server.given))

    def _check_workers(self, servers: Sequence[Server]) -> list[MseGradError]:
        pool = self._pool
        workers = {
            address: (endpoint, server.given)
            for server in servers
            for address, endpoint in self._workers(server.address).items()
        }
        pool.keep({*workers, *(server.address for server in servers if pool.has_many)})
        doubtful = {}
        for address, (endpoint, given) in workers.items():
            worker = pool.worker(address, given)
            if endpoint.state != pb.WORKER_STATE_READY or worker not in pool.in_use:
                doubtful[worker] = endpoint.address
        failures = []
        for worker, answer in self._ask(tuple(doubtful)):
            failure = answer.failure(worker.address, named=doubtful[worker])
            self._judge(worker, answer, failure, keeps_silent=False)
            if failure is not None:
                failures.append(failure)
        return failures

    def _use_servers_themselves(self, asked: Mapping[Connection, Server], usable: Sequence[Connection]) -> None:
        """Uses the own address of each server of which no worker can be reached, and of no other."""
        pool = self._pool
        for connection in asked:
            workers = self._workers(connection.address)
            if not workers or connection.address in workers:
                continue
            if connection in usable and not any(worker.address in workers for worker in list(pool.in_use)):
                self._take_up(connection)
            else:
                pool.leave_out(connection)

    def _judge(
        self, worker: Connection, answer: Answer, failure: MseGradError | None, *, keeps_silent: bool = True
    ) -> None:
        """Puts a worker in use, or takes it out.

        Args:
            worker: The worker.
            answer: Its answer.
            failure: Why it is not ready; None if it is.
            keeps_silent: Whether one in use may be too busy to answer; its stream shows if it is dead.
        """
        if failure is None:
            instance = "" if answer.info is None else answer.info.instance_id
            if not self._is_known(worker, instance):
                self._take_up(worker)
        elif not keeps_silent or answer.info is not None or isinstance(failure, Unavailable):
            self._pool.leave_out(worker)

    def _is_known(self, worker: Connection, instance: str) -> bool:
        """Whether another connection in use leads to the same process: a name may have addresses of two families."""
        self._instances = {each: known for each, known in self._instances.items() if each in self._pool.in_use}
        if instance and self._pool.has_many:
            if any(known == instance and each is not worker for each, known in self._instances.items()):
                return True
            self._instances[worker] = instance
        return False

    def _take_up(self, worker: Connection) -> None:
        self._pool.take_up(worker)
        self._arrivals.arrived()

    def _ask(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, Answer]]:
        """Asks all connections at the same time, and yields the answers as they come. Raises ClientClosed."""
        ended: SimpleQueue[int] = SimpleQueue()
        with self._lock:
            if self._stopping.is_set():
                return
            self._calls = calls = [connection.ask_server_info(timeout_s=_ASK_TIMEOUT_S) for connection in connections]
        for number, call in enumerate(calls):
            call.add_done_callback(partial(_put, ended, number))
        try:
            for _ in calls:
                number = ended.get()
                yield connections[number], answer_of(calls[number], connections[number].address)
        finally:
            self._calls = []


def _put(ended: SimpleQueue[int], number: int, _: InfoCall) -> None:
    ended.put(number)


def _none_ready(failures: Sequence[MseGradError]) -> MseGradError:
    """Returns the error of a request that no server can take: the first that no retry would help with, if all do."""
    if not any(isinstance(failure, Unavailable | DeadlineExceeded) for failure in failures):
        return failures[0]
    messages = [failure.message for failure in failures[:_MOST_FAILURES]]
    if len(failures) > _MOST_FAILURES:
        messages.append(f"and {len(failures) - _MOST_FAILURES} more")
    return Unavailable(f"no server is ready: {'; '.join(messages)}", reason=Reason.CONNECTION_LOST)
