"""Server of one adapter: `python -m benchmarks.peers.adapters.server_process MODULE ADDRESS`, until its input ends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading

__all__: list[str] = []


def main() -> None:
    """Serves on the address until standard input ends, which it treats as SIGTERM."""
    module_name, address = sys.argv[1:3]
    module = importlib.import_module(f"benchmarks.peers.adapters.{module_name}")
    threading.Thread(target=_end_with_input, daemon=True).start()
    module.serve(address)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
