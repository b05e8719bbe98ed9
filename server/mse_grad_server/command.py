"""What the command does once its modules are there: print and end, or serve."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Sequence
from importlib import metadata

from structlog.typing import FilteringBoundLogger

from mse_grad_server import supervisor
from mse_grad_server.allocator import keep_freed_memory
from mse_grad_server.config import Settings
from mse_grad_server.config_sources import parse_command
from mse_grad_server.config_text import as_yaml
from mse_grad_server.ending import exit_code_of
from mse_grad_server.exits import ExitCode, SettingsError
from mse_grad_server.grpc_environment import set_grpc_environment
from mse_grad_server.log import forward_library_logs, open_log

__all__ = ["run"]


def run(arguments: Sequence[str]) -> ExitCode:
    """Does what `arguments` say and returns how the process ends."""
    try:
        command = parse_command(arguments)
    except SettingsError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"mse-grad-server: {line}\n")
        return error.exit_code
    if command.version:
        sys.stdout.write(f"mse-grad-server {metadata.version('mse-grad')}\n")
        return ExitCode.OK
    if command.print_config:
        sys.stdout.write(as_yaml(command.settings, command.origins))
        return ExitCode.OK
    if command.settings.keep_freed_memory:
        keep_freed_memory()
    set_grpc_environment(command.settings.grpc_experiments)
    log = open_log(command.settings.log_level, command.settings.log_format, stream=sys.stderr)
    forward_library_logs(log)
    return asyncio.run(exit_code_of(_work(command.settings, log), log))


def _work(settings: Settings, log: FilteringBoundLogger) -> Awaitable[ExitCode]:
    if settings.is_supervised:
        return supervisor.run(settings, log)
    from mse_grad_server import app  # imports grpc, which reads its environment then, and which no supervisor needs

    return app.run(settings, log)
