"""The command `mse-grad`; its subcommands live in `mse_grad_client.commands`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"click", "rich"}


def main() -> None:
    """Runs the command line; says which extra to install where its libraries are missing."""
    try:
        from mse_grad_client.commands import mse_grad
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f"mse-grad needs {missing.name}, which the extra 'cli' brings: pip install 'mse-grad[cli]'\n")
        raise SystemExit(3) from None
    mse_grad()


if __name__ == "__main__":
    main()
