"""Discovery of a server's workers, which keeps the worker pool up to date."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import grpc

from mse_grad_client.errors import ClientClosed, TlsFailed, Unauthenticated
from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Replaced
from mse_grad_client.routing.address import worker_address
from mse_grad_client.routing.connection import Connection, InfoCall
from mse_grad_client.routing.worker_pool import WorkerPool
from mse_grad_client.server_info import Endpoint, ServerInfo

__all__ = ["Discovery"]

# Pause between two checks: at first, doubling while a worker is missing, and at most.
_SOON_S = 0.1
_PERIOD_S = 10.0
# The thread ends in time: cancelled RPCs end at once.
_STOP_TIMEOUT_S = 5.0
# A worker behind a firewall never answers.
_ASK_TIMEOUT_S = 2.0


class Discovery:
    """A thread that asks the server for its workers: at first, after the loss of a worker, and every 10 s.

    A worker is put in use once it has answered, at its own address, that it is ready. So no request goes to an address
    that this client cannot reach, or that belongs to another server.

    Args:
        pool: The worker pool to keep up to date.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = Latch()
        self._calls: list[InfoCall] = []
        self._endpoints: tuple[Endpoint, ...] = ()

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
        self._pool.refresh_wanted.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = _SOON_S
        while not self._stopping.is_set():
            self._pool.refresh_wanted.clear()
            try:
                is_settled = self._refresh()
            except (ClientClosed, Replaced):
                return
            except (TlsFailed, Unauthenticated):  # a certificate or token file cannot be read now
                is_settled = False
            if self._pool.refresh_wanted.wait(_PERIOD_S if is_settled else pause_s):
                pause_s = _SOON_S
                self._stopping.wait(_SOON_S)
            else:
                pause_s = min(2 * pause_s, _PERIOD_S)

    def _refresh(self) -> bool:
        """Asks the server for its workers, and unused workers for their state; returns whether all are in use."""
        pool = self._pool
        (info,) = self._ask([pool.given])
        if info is not None:
            self._endpoints = info.endpoints
        if len(self._endpoints) < 2:  # the given address is the only worker
            pool.keep(())
            return info is not None
        reachable = {
            address: endpoint
            for endpoint in self._endpoints
            if (address := worker_address(endpoint.address, given=pool.given.address)) is not None
        }
        pool.keep(reachable)
        doubtful = []
        for address, endpoint in reachable.items():
            worker = pool.worker(address)
            if endpoint.state != "ready" or worker not in pool.in_use:
                doubtful.append((worker, endpoint))
        answers = self._ask([worker for worker, _ in doubtful])
        for (worker, endpoint), answer in zip(doubtful, answers, strict=True):
            if answer is not None and _is_ready(answer, endpoint.address):
                pool.take_up(worker)
            else:
                pool.leave_out(worker)
        return len(pool.in_use) == len(reachable)

    def _ask(self, connections: Sequence[Connection]) -> list[ServerInfo | None]:
        """Asks all connections at the same time; None stands for no answer. Raises ClientClosed."""
        with self._lock:
            if self._stopping.is_set():
                return [None] * len(connections)
            self._calls = [connection.ask_server_info(timeout_s=_ASK_TIMEOUT_S) for connection in connections]
        try:
            return [_answer(call) for call in self._calls]
        finally:
            self._calls = []


def _answer(call: InfoCall) -> ServerInfo | None:
    # Check the code instead of catching the exception: gRPC raises the call object itself, and its traceback would
    # create a reference cycle.
    return ServerInfo.of_wire(call.result()) if call.code() is grpc.StatusCode.OK else None


def _is_ready(answer: ServerInfo, address: str) -> bool:
    return any(endpoint.address == address and endpoint.state == "ready" for endpoint in answer.endpoints)
