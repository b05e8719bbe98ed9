"""Server process of the demo."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from types import TracebackType

__all__ = ["DemoServer"]

STOP_TIMEOUT_S = 60.0


class DemoServer:
    """Runs `mse-grad-server` on free ports of this machine, as a context manager.

    Attributes:
        address: Address of the gradients, "host:port".
        metrics_url: URL of the metrics.
        device: Its backend and device.
    """

    def __enter__(self) -> DemoServer:
        """Starts it and waits until it is ready; raises RuntimeError with its log if it ends before that."""
        command = [
            sys.executable,
            "-m",
            "mse_grad_server",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._log: list[str] = []
        ready = self._wait_for("ready")
        self.address = str(ready["listen"])
        self.metrics_url = f"http://{ready['metrics_listen']}/metrics"
        self.device = f"{ready['backend']} ({ready['device']})"
        # Keep reading its log: otherwise the pipe fills and the server blocks.
        self._reader = threading.Thread(target=self._read_log, name="server-log")
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Sends it SIGTERM and returns its exit code; kills it if it does not end in time."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        self._reader.join()
        if self._process.stderr is not None:
            self._process.stderr.close()
        return code

    @property
    def log(self) -> str:
        """Its log so far."""
        return "".join(self._log)

    def _wait_for(self, event: str) -> dict[str, object]:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if line.startswith("{"):
                entry: dict[str, object] = json.loads(line)
                if entry.get("event") == event:
                    return entry
        raise RuntimeError(f"the server ended with exit code {self._process.wait()}:\n{self.log}")

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
