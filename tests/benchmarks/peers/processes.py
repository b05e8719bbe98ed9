"""Servers and clients as processes of their own, in the environments of the peers."""

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

__all__ = ["Client", "ServerOfWay"]

_TESTS = Path(__file__).parents[2]
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 180.0
_END_TIMEOUT_S = 30.0
_POLL_S = 0.02


class ServerOfWay:
    """The server of a way. Nothing that it started is left after `close`.

    Args:
        python: Interpreter of its environment.
        module: Of the way, in `benchmarks.peers.ways`.
        address: Where it shall listen: "host:port" or "unix:/path".
        arguments: Further ones, for what reads its command line by itself.
        environment: Variables on top of the inherited ones.
        log: Where its output goes.
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
                [python, "-m", "benchmarks.peers.ways.serve", module, address, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(environment),
                cwd=log.parent,  # some leave files where they run
                text=True,
                start_new_session=True,
            )

    def wait_until_listening(self) -> None:
        """Raises NotAvailable where it ends instead, or does not listen within a minute."""
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
        """Closes its input, its sign to end; does not wait, so that many end at a time."""
        _close_input(self._process)

    def close(self) -> None:
        """Ends it, and what it started."""
        _end(self._process)
        with contextlib.suppress(ProcessLookupError):  # nobody is left of its group
            os.killpg(self._process.pid, signal.SIGKILL)


class Client:
    """A process that measures on command; see `ways/measure.py`. Several may be at work at a time.

    Args:
        python: Interpreter of its environment.
        where: "module:function" of the way that connects.
        address: Of its server.
        environment: Variables on top of the inherited ones.
        log: Where its other output goes.

    Raises:
        NotAvailable: By every method: the process ended, with the last line of its log, or did not answer.
    """

    def __init__(self, python: str, where: str, address: str, *, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.ways.measure", where, address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=_environment(environment),
                text=True,
            )

    def version(self) -> str:
        """Returns the release of what is measured; to be asked first, once."""
        return str(self.answer()["version"])

    def ask(self, do: str, **arguments: object) -> Any:
        """Sends a command and returns its answer."""
        self.send(do, **arguments)
        return self.answer()

    def send(self, do: str, **arguments: object) -> None:
        """Sends a command, whose answer is to be fetched with `answer`."""
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
        """Closes its input, its sign to end; does not wait, so that many end at a time."""
        _close_input(self._process)

    def close(self) -> None:
        """Ends the process."""
        _end(self._process)

    def _last_words(self) -> str:
        self._process.wait()
        return _last_line(self._log) or f"the client ended with exit code {self._process.returncode}"


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # Settings of the developer's shell must not reach who is measured.
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
    with contextlib.suppress(BrokenPipeError):  # it has ended already
        process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Asks it to end, waits, and kills it where that did not help."""
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
