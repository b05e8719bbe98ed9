"""Servers and clients as separate processes, in the environments of the peers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import NotAvailable

__all__ = ["Client", "PeerServer"]

_TESTS = Path(__file__).parents[2]
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 180.0
_END_TIMEOUT_S = 30.0
_POLL_S = 0.02


class PeerServer:
    """Server of an adapter. After `close`, no process that it started is left.

    Args:
        python: Interpreter of its environment.
        module: Module of `benchmarks.peers.adapters`.
        address: Address that it shall listen on: "host:port" or "unix:/path".
        arguments: Further arguments, for a server that reads its command line itself.
        environment: Variables on top of the inherited ones.
        log: File for its output.
    """

    def __init__(
        self,
        python: str,
        module: str,
        address: str,
        *,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.address = address
        self._log = log
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.adapters.server_process", module, address, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(environment),
                cwd=log.parent,  # some servers leave files in their working folder
                text=True,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_until_listening(self) -> None:
        """Raises NotAvailable if the server ends, or does not listen within a minute."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise NotAvailable(
                    _last_line(self._log) or f"the server ended with exit code {self._process.returncode}"
                )
            try:
                _try(self.address)
                return
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise NotAvailable(f"the server did not listen within {_START_TIMEOUT_S} s") from error
            time.sleep(_POLL_S)

    def ask_to_end(self) -> None:
        """Tells the process to end by closing its input; does not wait, so that many end at the same time."""
        _close_input(self._process)

    def close(self) -> None:
        """Ends the process and all processes that it started."""
        _end(self._process)
        with contextlib.suppress(ProcessLookupError):  # its process group is empty
            os.killpg(self._process.pid, signal.SIGKILL)


class Client:
    """Process that measures on command; see `adapters/client_process.py`. Several may work at a time.

    Args:
        python: Interpreter of its environment.
        adapter: "module:function" of the adapter that connects.
        address: Address of its server.
        environment: Variables on top of the inherited ones.
        log: File for its other output.

    Raises:
        NotAvailable: From every method: the process ended (the message is the last line of its log) or did not answer.
    """

    def __init__(self, python: str, adapter: str, address: str, *, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.adapters.client_process", adapter, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=_environment(environment),
                text=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def version(self) -> str:
        """Returns the release of the package that is measured; call it first, and once."""
        return str(self.answer()["version"])

    def ask(self, do: str, **arguments: object) -> Any:
        """Sends a command and returns its answer."""
        self.send(do, **arguments)
        return self.answer()

    def send(self, do: str, **arguments: object) -> None:
        """Sends a command; fetch its answer with `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise NotAvailable(self._last_words()) from None

    def answer(self) -> Any:
        """Returns the next answer."""
        assert self._process.stdout is not None
        killer = threading.Timer(_ANSWER_TIMEOUT_S, self._process.kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        if not line:
            raise NotAvailable(self._last_words())
        return json.loads(line)

    def ask_to_end(self) -> None:
        """Tells the process to end by closing its input; does not wait, so that many end at the same time."""
        _close_input(self._process)

    def close(self) -> None:
        """Ends the process."""
        _end(self._process)

    def _last_words(self) -> str:
        self._process.wait()
        return _last_line(self._log) or f"the client ended with exit code {self._process.returncode}"


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # Settings of the developer's shell must not reach the processes that are measured.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MSE_GRAD_", "MALLOC_"))}
    return {**inherited, "PYTHONPATH": str(_TESTS), **variables}


def _try(address: str) -> None:
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address.removeprefix("unix:"))
    else:
        host, port = address.rsplit(":", 1)
        socket.create_connection((host, int(port))).close()


def _close_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the process has ended already
        process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Asks the process to end, waits, and kills it if it does not end."""
    _close_input(process)
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
