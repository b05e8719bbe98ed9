"""The command `mse-grad-server`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_EXTRA = (
    "cryptography",
    "grpc_channelz",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "pydantic_settings",
    "structlog",
    "yaml",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server and returns its exit code, one of `exits.ExitCode`.

    Args:
        arguments: Flags; None for those of the process.
    """
    try:
        from mse_grad_server import command

        return command.run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as cause:
        if cause.name is None or cause.name.partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"mse-grad-server needs the extra 'server': pip install 'mse-grad[server]' (there is no {cause.name})\n"
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
