"""Entry point of the command `mse-grad`; its subcommands are in `mse_grad_cli.commands`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]

_EXTRA = {"click", "rich"}
_STDERR = 2


def main() -> None:
    """Runs the command line; names the extra to install if its libraries are missing."""
    # The core of gRPC writes a line of its own to stderr for a failed handshake, which the command reports anyway.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from mse_grad_cli.commands import NOT_PRINTED, StoppedBySystem, mse_grad
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        _end(3, f"mse-grad needs {missing.name} from the extra 'cli': pip install 'mse-grad[cli]'")
    if sys.stdout is None:
        _end(NOT_PRINTED, "mse-grad cannot print: stdout is closed")
    try:
        mse_grad()
    except (OSError, StoppedBySystem) as error:  # OSError if stderr cannot take the message of another error
        _end(NOT_PRINTED, f"mse-grad was stopped by the system: {error}; its output is incomplete")


def _end(exit_code: int, message: str) -> NoReturn:
    with suppress(OSError):  # then only the exit code reports the error
        os.write(_STDERR, f"{message}\n".encode())
    # The interpreter would try at its end to flush the rest of a stream again, and exit with its own code 120.
    os._exit(exit_code)


if __name__ == "__main__":
    main()
