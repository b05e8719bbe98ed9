"""A server as a separate process whose memory, log and event loop are watched."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.resident import Held, held
from support.waiting import PATIENCE_S, wait_until

__all__ = ["WatchedServer", "watched_server"]

_PROGRAM = Path(__file__).parents[2] / "benchmarks" / "watched_server.py"


@dataclass(frozen=True)
class WatchedServer:
    """A server under test.

    Attributes:
        process: The process.
        log: File of its log.
        stalls: File of the stalls of its event loop.
    """

    process: subprocess.Popen[bytes]
    log: Path
    stalls: Path

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self.process.pid

    @property
    def address(self) -> str:
        """Address of the gradients."""
        return str(self.events("ready")[0]["listen"])

    @property
    def held(self) -> Held:
        """Resources that it holds now."""
        return held(self.pid)

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Returns the lines of its log with these events, oldest first; without names, every line."""
        lines = []
        for text in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                line = {"event": "no JSON", "message": text}
            if not names or line["event"] in names:
                lines.append(line)
        return lines

    def metric(self, name: str) -> float:
        """Returns the sum of a metric over all of its labels."""
        page = f"http://{self.events('ready')[0]['metrics_listen']}/metrics"
        with urllib.request.urlopen(page, timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.partition(" ")[0].partition("{")[0] == name)

    def stalls_between(self, began_s: float, ended_s: float) -> list[tuple[float, float]]:
        """Returns the length of each stall, and the processor time that the event loop's thread used in it.

        Args:
            began_s: A time of `time.monotonic`.
            ended_s: A later one.
        """
        lines = [tuple(map(float, line.split())) for line in self.stalls.read_text(encoding="ascii").splitlines()]
        return [(stall_s, busy_s) for at_s, stall_s, busy_s in lines if began_s <= at_s <= ended_s]


@contextmanager
def watched_server(*flags: str, metrics_listen: str = "none") -> Iterator[WatchedServer]:
    """Runs a server with `flags` within the `with`, on a free port of loopback."""
    with tempfile.TemporaryDirectory() as folder:
        log, stalls = Path(folder, "log"), Path(folder, "stalls")
        arguments = ("--listen", "127.0.0.1:0", "--metrics-listen", metrics_listen, *flags)
        with log.open("wb") as stderr, stalls.open("wb") as stdout:
            process = subprocess.Popen([sys.executable, str(_PROGRAM), *arguments], stdout=stdout, stderr=stderr)
        server = WatchedServer(process, log, stalls)
        try:
            wait_until(lambda: b'"ready"' in log.read_bytes() or process.poll() is not None, patience_s=3 * PATIENCE_S)
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
