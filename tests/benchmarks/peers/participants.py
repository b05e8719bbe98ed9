"""Servers and clients of one run."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.environments import NotAvailable, python_of
from benchmarks.peers.figures import Absence
from benchmarks.peers.processes import Client, PeerServer
from benchmarks.peers.rows import CERTIFICATE, KEY, SERVERS, Row, Server
from support.server.certificates import Authority, Pair
from support.server.server_process import running_server

__all__ = ["Participant", "started"]


@dataclass(frozen=True)
class Participant:
    """A row with a client that is connected.

    Attributes:
        row: The row.
        client: The process of its client.
        version: Release of the package that is measured.
        address: Address of its server; "" if it has none.
        python: Interpreter of its environment.
        folder: Folder for logs.
        server_pid: Process id of its server; None if it has none.
    """

    row: Row
    client: Client
    version: str
    address: str
    python: str
    folder: Path
    server_pid: int | None = None

    def another_client(self, number: int) -> Client:
        """Starts one more client process; ask it for its `version` first."""
        return _start_client(self.row, self.python, self.address, self.folder, number=number)


@contextmanager
def started(rows: Sequence[Row], folder: Path) -> Iterator[tuple[list[Participant], list[Absence]]]:
    """Starts all servers, then all clients; returns the rows that started and those that did not.

    Args:
        rows: The rows that take part.
        folder: Folder for logs and Unix sockets; a short path.
    """
    authority = Authority(folder)
    pair = authority.issue("server")
    with ExitStack() as stack:
        servers, failures = _started_servers({row.server for row in rows if row.server}, folder, pair, stack)
        participants: list[Participant] = []
        absences: list[Absence] = []
        clients: list[tuple[Row, str, Client, str, int | None]] = []
        for row in rows:
            if row.server in failures:
                absences.append(Absence(*row.key, during="start", not_available=failures[row.server]))
                continue
            python = python_of(SERVERS[row.server].environment if row.server else "")
            trusted = {CERTIFICATE: str(authority.certificate)} if row.server and SERVERS[row.server].tls else {}
            row = replace(row, variables={**row.variables, **trusted})
            address, server_pid = servers.get(row.server, ("", None))
            client = _start_client(row, python, address, folder)
            stack.callback(client.close)
            clients.append((row, python, client, address, server_pid))
        for row, python, client, address, server_pid in clients:
            try:
                version = client.version()
            except NotAvailable as why:
                absences.append(Absence(*row.key, during="start", not_available=str(why)))
                continue
            participants.append(Participant(row, client, version, address, python, folder, server_pid))
        for _, _, client, _, _ in clients:
            stack.callback(client.ask_to_end)  # sends the request to all of them before it waits for the first
        yield participants, absences


def _started_servers(
    names: set[str], folder: Path, pair: Pair, stack: ExitStack
) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
    """Returns the addresses and process ids of the servers that listen, and the errors of the others."""
    servers: dict[str, tuple[str, int]] = {}
    failures: dict[str, str] = {}
    starting: dict[str, PeerServer] = {}
    for name in sorted(names):
        server = SERVERS[name]
        if not server.module:
            servers[name] = _product(server, folder, pair, stack)
            continue
        try:
            python = python_of(server.environment)
        except NotAvailable as why:
            failures[name] = str(why)
            continue
        address = f"unix:{folder / name.replace(' ', '-')}.sock" if server.unix else f"127.0.0.1:{_free_port()}"
        starting[name] = PeerServer(
            python,
            server.module,
            address,
            arguments=server.arguments,
            environment={**_variables(server, address), **(_names_of(pair) if server.tls else {})},
            log=folder / f"server-{name.replace(' ', '-')}.log",
        )
        stack.callback(starting[name].close)
    for process in starting.values():
        stack.callback(process.ask_to_end)
    for name, process in starting.items():
        try:
            process.wait_until_listening()
        except NotAvailable as why:
            failures[name] = str(why)
        else:
            servers[name] = process.address, process.pid
    return servers, failures


def _product(server: Server, folder: Path, pair: Pair, stack: ExitStack) -> tuple[str, int]:
    listen = f"unix:{folder / 'product.sock'}" if server.unix else "127.0.0.1:0"
    flags = pair.flags if server.tls else ()
    server_process = stack.enter_context(running_server(*flags, listen=listen, environment=server.variables))
    return server_process.address, server_process.process.pid


def _names_of(pair: Pair) -> Mapping[str, str]:
    return {CERTIFICATE: str(pair.certificate), KEY: str(pair.key)}


def _start_client(row: Row, python: str, address: str, folder: Path, *, number: int = 0) -> Client:
    log = folder / f"client-{'-'.join(row.text.replace(',', '').split())}-{number}.log"
    return Client(python, row.adapter, address, environment=row.variables, log=log)


def _variables(server: Server, address: str) -> Mapping[str, str]:
    host, _, port = address.rpartition(":")
    return {name: value.format(host=host, port=port) for name, value in server.variables.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
