"""Learns from the server which workers it has, and tells the fleet which of them take requests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import grpc

from mse_grad_client.address import worker_address
from mse_grad_client.connection import Connection, InfoCall
from mse_grad_client.errors import ClientClosed, TlsFailed, Unauthenticated
from mse_grad_client.fleet import Fleet
from mse_grad_client.info import Endpoint, ServerInfo

__all__ = ["Watcher"]

# Between two looks: at least, doubling while a worker is missing, and at most.
_SOON_S = 0.1
_PERIOD_S = 10.0
# A worker behind a firewall answers nothing at all.
_ASK_TIMEOUT_S = 2.0


class Watcher:
    """A thread that looks at what the server says of its workers: at first, after a loss, and every 10 s.

    A worker is taken up once it has answered at its own address that it is there and ready. So an address that means
    nothing to this client, or another server, is never sent a request.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._calls: list[InfoCall] = []
        self._endpoints: tuple[Endpoint, ...] = ()

    def start(self) -> None:
        """Starts looking, where it does not."""
        with self._lock:
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._watch, name="mse-grad-watcher", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Returns when it looks no more and none of its RPCs is under way; `start` begins anew."""
        with self._lock:
            thread = self._thread
            self._stopping.set()
            for call in self._calls:
                call.cancel()
        self._fleet.look_wanted.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            self._thread = None

    def _watch(self) -> None:
        pause_s = _SOON_S
        while not self._stopping.is_set():
            self._fleet.look_wanted.clear()
            try:
                is_settled = self._look()
            except ClientClosed:
                return
            except (TlsFailed, Unauthenticated):  # a file of certificates or of the token is not to be read now
                is_settled = False
            if self._fleet.look_wanted.wait(_PERIOD_S if is_settled else pause_s):
                pause_s = _SOON_S
                self._stopping.wait(_SOON_S)
            else:
                pause_s = min(2 * pause_s, _PERIOD_S)

    def _look(self) -> bool:
        """Asks the server for its workers, and those that are not in use how they are; returns whether all are."""
        fleet = self._fleet
        (info,) = self._ask([fleet.given])
        if info is not None:
            self._endpoints = info.endpoints
        if len(self._endpoints) < 2:  # the given address is all there is
            fleet.keep(())
            return info is not None
        reachable = {
            address: endpoint
            for endpoint in self._endpoints
            if (address := worker_address(endpoint.address, given=fleet.given.address)) is not None
        }
        fleet.keep(reachable)
        doubtful = []
        for address, endpoint in reachable.items():
            worker = fleet.worker(address)
            if endpoint.state != "ready" or worker not in fleet.in_use:
                doubtful.append((worker, endpoint))
        answers = self._ask([worker for worker, _ in doubtful])
        for (worker, endpoint), answer in zip(doubtful, answers, strict=True):
            if answer is not None and _is_ready(answer, endpoint.address):
                fleet.take_up(worker)
            else:
                fleet.leave_out(worker)
        return len(fleet.in_use) == len(reachable)

    def _ask(self, connections: Sequence[Connection]) -> list[ServerInfo | None]:
        """Asks all at the same time; None stands for no answer. Raises ClientClosed."""
        with self._lock:
            if self._stopping.is_set():
                return [None] * len(connections)
            self._calls = [connection.ask_server_info(timeout_s=_ASK_TIMEOUT_S) for connection in connections]
        try:
            return [_answer(call) for call in self._calls]
        finally:
            self._calls = []


def _answer(call: InfoCall) -> ServerInfo | None:
    # Not by its exception: gRPC raises the call itself, and its traceback would be a cycle that keeps it alive.
    return ServerInfo.of_wire(call.result()) if call.code() is grpc.StatusCode.OK else None


def _is_ready(answer: ServerInfo, address: str) -> bool:
    return any(endpoint.address == address and endpoint.state == "ready" for endpoint in answer.endpoints)
