"""A server as a separate process, for tests that need the real thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from support.waiting import wait_until

__all__ = ["ServerProcess", "running_server", "stopped"]

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 120.0


class ServerProcess:
    """`python -m mse_grad_server` with its log; made ready and ended by `running_server`.

    Thread safety: `wait_for_event` and `log` may be used from several threads.

    Attributes:
        process: The process, for signals and resource figures.
        keeps_log: Whether later lines of the log are kept; a test that runs for hours sets it to False.
    """

    def __init__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> None:
        self._command = [*prefix, sys.executable, "-m", "mse_grad_server", *arguments]
        # Settings of the developer's shell must not reach the test.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")}
        self._environment = {**inherited, **(environment or {})}
        self._lines: list[str] = []
        self._events: list[dict[str, Any]] = []
        self.keeps_log = True
        self._log_ended = False
        self._log_grew = threading.Condition()
        self._killed = False
        self.process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """The address of the gradients: "host:port" or "unix:/path"."""
        return str(self.event("ready")["listen"])

    @property
    def metrics_address(self) -> str:
        """The address of the metrics: "host:port"."""
        return str(self.event("ready")["metrics_listen"])

    @property
    def log(self) -> str:
        """The server's output on stderr so far."""
        with self._log_grew:
            return "\n".join(self._lines)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of its log so far, oldest first."""
        with self._log_grew:
            return list(self._events)

    def start(self) -> None:
        """Starts the process and the reader of its log; does not wait."""
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="server-log", daemon=True)
        self._reader.start()

    def event(self, name: str) -> dict[str, Any]:
        """Returns the first line of the log with `name` as its event; raises AssertionError if there is none yet."""
        return self.wait_for_event(name, timeout_s=0.0)

    def wait_for_event(
        self, name: str, *, worker: str | None = None, timeout_s: float = READY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Returns the first line of the log with `name` as its event, as soon as there is one.

        Args:
            name: Name of the event.
            worker: The worker of the line; None for the process itself.
            timeout_s: How long to wait.

        Raises:
            AssertionError: The process ended, or `timeout_s` passed, without it; the message holds the log.
        """
        deadline = time.monotonic() + timeout_s
        with self._log_grew:
            while True:
                for event in self._events:
                    if (event.get("event"), event.get("worker")) == (name, worker):
                        return event
                left_s = deadline - time.monotonic()
                if self._log_ended or left_s <= 0:
                    log = "\n".join(self._lines)
                    why = "its log ended" if self._log_ended else f"{timeout_s} s passed"
                    raise AssertionError(f"the server logged no {name!r} event before {why}; its log:\n{log}")
                self._log_grew.wait(left_s)

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ends the server with SIGTERM; raises AssertionError unless it ends in time with exit code 0."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server ran on {timeout_s} s after SIGTERM; its log:\n{self.log}") from None
        self._close_log()
        code = self.process.returncode
        if code != 0:
            raise AssertionError(f"the server ended with exit code {code}, not 0; its log:\n{self.log}")

    def kill(self) -> None:
        """Kills the server, as a crash would; `running_server` then expects no exit code."""
        self._killed = True
        self.process.kill()
        self.process.wait()
        self._close_log()

    def _close_log(self) -> None:
        self._reader.join(timeout=10.0)
        assert not self._reader.is_alive(), "a child of the server holds its stderr open"
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self.keeps_log:
                continue
            with self._log_grew:
                self._lines.append(line.rstrip("\n"))
                if (event := _json_object(line)) is not None:
                    self._events.append(event)
                self._log_grew.notify_all()
        with self._log_grew:
            self._log_ended = True
            self._log_grew.notify_all()


@contextmanager
def running_server(
    *arguments: str,
    listen: str = "127.0.0.1:0",
    metrics_listen: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
    ready_timeout_s: float = READY_TIMEOUT_S,
    prefix: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """Runs a server within the `with`, ready to serve.

    At the end it gets SIGTERM and must end with exit code 0, unless the body killed it with `ServerProcess.kill`.

    Args:
        arguments: Further flags, e.g. "--cpu-kernel", "portable".
        listen: Address for gradients; port 0 picks a free one.
        metrics_listen: Address for metrics; port 0 picks a free one.
        environment: Variables on top of the inherited ones, from which every MSE_GRAD_* is removed.
        ready_timeout_s: Bound on the start.
        prefix: Beginning of its command line, such as Host.command.
    """
    addresses = ("--listen", listen, "--metrics-listen", metrics_listen)
    server = ServerProcess(*addresses, *arguments, environment=environment, prefix=prefix)
    server.start()
    try:
        server.wait_for_event("ready", timeout_s=ready_timeout_s)
        yield server
    except BaseException:
        server.kill()  # an error of the body matters more than the server's end
        print(server.log, file=sys.stderr)
        raise
    if not server._killed:
        server.stop()


@contextmanager
def stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stops a process within the `with`, as SIGSTOP does; it goes on at the end."""
    process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: _state_of(process.pid) == "T")
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0]


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
