"""Runs the server of one way until standard input ends: `python -m benchmarks.peers.ways.serve MODULE ADDRESS`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading

__all__: list[str] = []


def main() -> None:
    """Serves on the address until standard input ends, as after SIGTERM."""
    module_name, address = sys.argv[1:3]
    module = importlib.import_module(f"benchmarks.peers.ways.{module_name}")
    threading.Thread(target=_end_with_input, daemon=True).start()
    module.serve(address)


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
