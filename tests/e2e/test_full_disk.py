"""A disk that fills up under the log of a server under load: gradients go on, and the drain works."""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mse_grad_client import MseGradClient
from support.client.load import Load
from support.ports import held_port
from support.server.refused_calls import make_refused_calls
from support.tools import refuse, require_program, require_root
from support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces of Linux")

DISK_KIB = 64
LOST = re.compile(r'^mse_grad_log_lost_lines_total\{reason="write_error"\} (\S+)$', re.MULTILINE)
COMPUTED = re.compile(r'^mse_grad_requests_total\{code="OK".*\} (\S+)$', re.MULTILINE)
# Mounts a small disk that only the server sees, and becomes the server with its log there.
SCRIPT = f'mount -t tmpfs -o size={DISK_KIB}k disk "$1" && exec 2>"$1/log" && shift && exec "$@"'


class Disk:
    """The small disk, as the server sees it.

    Args:
        folder: Where it is mounted in the server's namespace.
    """

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self.log = folder / "log"

    def fill(self) -> None:
        """Takes every byte that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            while self._takes(file):
                pass

    @staticmethod
    def _takes(file: io.RawIOBase) -> bool:
        try:
            file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True

    def clear(self) -> None:
        """Makes room again."""
        self._ballast.unlink()


class LoggingServer:
    """A server that logs to the small disk.

    Attributes:
        process: The process.
        address: Its address of gradients.
        disk: The disk.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str, metrics_address: str, folder: Path) -> None:
        self.process = process
        self.address = address
        self.disk = Disk(Path(f"/proc/{process.pid}/root{folder}"))
        self._metrics_url = f"http://{metrics_address}/metrics"

    def lost_lines(self) -> float:
        """Returns the number of lines that it could not write."""
        (lost,) = LOST.findall(self._metrics())
        return float(lost)

    def wait_computes(self) -> None:
        """Waits until it has computed more gradients."""
        before = self._computed()
        wait_until(lambda: self._computed() > before)

    def _computed(self) -> float:
        return sum(float(count) for count in COMPUTED.findall(self._metrics()))

    def _metrics(self) -> str:
        with urllib.request.urlopen(self._metrics_url, timeout=PATIENCE_S) as page:
            return str(page.read().decode())


@contextmanager
def logging_to_a_small_disk(*flags: str) -> Iterator[LoggingServer]:
    """Runs a server within the `with`; kills it at the end."""
    require_root()
    unshare = require_program("unshare")
    if subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode:
        refuse("this user may make no mount namespace")
    with tempfile.TemporaryDirectory(prefix="mse", dir="/tmp") as name, held_port() as port:
        folder = Path(name)
        (folder / "disk").mkdir()
        listen, metrics_listen = f"unix:{folder}/s", f"127.0.0.1:{port}"
        server = [sys.executable, "-m", "mse_grad_server", "--listen", listen, "--metrics-listen", metrics_listen]
        process = subprocess.Popen(
            [unshare, "--mount", "sh", "-c", SCRIPT, "sh", str(folder / "disk"), *server, *flags],
            env={name: value for name, value in os.environ.items() if not name.startswith("MSE_GRAD_")},
            stdin=subprocess.DEVNULL,
        )
        try:
            with MseGradClient(listen) as client:
                client.wait_ready(PATIENCE_S)
            yield LoggingServer(process, listen, metrics_listen, folder / "disk")
        finally:
            process.kill()
            process.wait()


def lose_lines(server: LoggingServer) -> None:
    """Has the server log more than the last page of the log has room for, and waits until it has lost a line."""
    before = server.lost_lines()
    make_refused_calls(server.address, 20)
    wait_until(lambda: server.lost_lines() > before)


def test_a_disk_that_fills_up_under_load_fails_no_call_and_gets_lines_again_once_it_has_room() -> None:
    with logging_to_a_small_disk() as server, Load((), server.address, timeout_s=PATIENCE_S) as load:
        load.begin()
        server.disk.fill()
        lose_lines(server)
        server.wait_computes()

        server.disk.clear()
        full_bytes = server.disk.log.stat().st_size
        make_refused_calls(server.address, 1)
        wait_until(lambda: server.disk.log.stat().st_size > full_bytes)

        server.disk.fill()
        lose_lines(server)
        server.wait_computes()
        assert load.end().failures == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0


def test_a_server_on_a_full_disk_drains_under_load() -> None:
    with logging_to_a_small_disk() as server, Load((), server.address, timeout_s=3.0) as load:
        server.disk.fill()
        load.begin()
        lose_lines(server)
        server.wait_computes()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        failures = load.end().failures
        assert [text for text in failures if text.split(":")[0] not in ("DeadlineExceeded", "Unavailable")] == []
