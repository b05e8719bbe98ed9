"""Standard streams of the process: stdin, stdout and stderr, any of which its parent may have closed."""

from __future__ import annotations

import os
import sys

from mse_grad_server.process.exits import OutputError

__all__ = ["STDERR", "hold_descriptors", "print_text"]

STDERR = 2


def hold_descriptors() -> None:
    """Opens /dev/null in place of each closed standard stream.

    Otherwise a socket could get the number of the stream, and receive everything that is printed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open takes the lowest free number


def print_text(text: str) -> None:
    """Writes all of `text` to stdout.

    Raises:
        OutputError: stdout is closed or unwritable.
    """
    if sys.stdout is None:
        raise OutputError("cannot print: stdout is closed")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as cause:
        # Discard the buffer: flushing it at exit would fail again, with a message and an exit code of the interpreter.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OutputError(f"cannot print: {cause.strerror}") from cause
