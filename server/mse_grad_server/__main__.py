"""The command `mse-grad-server`: serves, starts workers or is one, diagnoses a host, probes a server.

Imports come late. The standard streams and the environment have to be in order before a library reads them, and a
supervisor imports neither gRPC nor NumPy.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mse_grad_server.process.environment import keep_freed_memory, set_grpc_environment
from mse_grad_server.process.exits import ExitCode, StartError, exit_code_of
from mse_grad_server.process.standard_streams import STDERR, hold_descriptors, print_text

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from mse_grad_server.process.log_writer import LogWriter
    from mse_grad_server.settings.model import Settings
    from mse_grad_server.settings.sources import Command

__all__ = ["main"]

# Packages of the extra "server".
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
# With one of these variables prometheus_client writes metrics to files: it needs a folder and loses kinds of metrics.
_PROMETHEUS_FILE_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, one of `exits.ExitCode`.

    Args:
        arguments: Command-line arguments; None for those of the process.
    """
    hold_descriptors()
    for variable in _PROMETHEUS_FILE_VARIABLES:
        os.environ.pop(variable, None)  # prometheus_client reads it when it is imported
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as cause:
        if cause.name is None or cause.name.partition(".")[0] not in _EXTRA:
            raise
        words = f"mse-grad-server needs the extra 'server': pip install 'mse-grad[server]' (there is no {cause.name})\n"
        with suppress(OSError):
            os.write(STDERR, words.encode())
        return ExitCode.FAILED


def _run(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["doctor", *rest]:
            from mse_grad_server.doctor import command as doctor

            return doctor.run(rest)
        case ["probe", *rest]:
            from mse_grad_server import probe

            return probe.run(rest)
        case ["--worker", _, descriptor]:  # the name is for people who list processes
            return asyncio.run(_be_worker(socket.socket(fileno=int(descriptor))))
    return _serve_or_print(arguments)


def _serve_or_print(arguments: Sequence[str]) -> ExitCode:
    from mse_grad.version import VERSION
    from mse_grad_server.process.log import complain
    from mse_grad_server.settings.sources import parse_command
    from mse_grad_server.settings.text import as_yaml

    try:
        command = parse_command(arguments)
        if command.version:
            print_text(f"mse-grad-server {VERSION}\n")
            return ExitCode.OK
        if command.print_config:
            print_text(as_yaml(command.settings, command.origins))
            return ExitCode.OK
    except StartError as error:
        complain(str(error))
        return error.exit_code
    return _serve(command)


def _serve(command: Command) -> ExitCode:
    from mse_grad_server.process.log import log_to_stderr

    settings = command.settings
    if settings.keep_freed_memory:
        keep_freed_memory()
    was_in_time = set_grpc_environment(settings.grpc_experiments)
    with log_to_stderr(settings.log_level, settings.log_format) as (log, writer):
        if command.service_links:
            log.info("service_links_ignored", variables=", ".join(command.service_links))
        if not was_in_time and not settings.is_supervised:
            log.warning(
                "grpc_environment",
                message="grpc was imported before the server set its environment, so --grpc-experiments has no effect",
            )
        return asyncio.run(exit_code_of(_work(settings, log, writer), log))


def _work(settings: Settings, log: FilteringBoundLogger, writer: LogWriter) -> Awaitable[ExitCode]:
    if settings.is_supervised:
        from mse_grad_server.workers import supervisor

        return supervisor.run(settings, log, writer=writer)
    from mse_grad_server import lifecycle

    return lifecycle.run(settings, log, writer=writer)


async def _be_worker(end: socket.socket) -> ExitCode:
    """Serves as a worker until its supervisor, at the other end of the control channel, stops it or has ended."""
    from mse_grad_server import lifecycle
    from mse_grad_server.process.clock import LoopClock
    from mse_grad_server.process.log import log_to_stderr
    from mse_grad_server.settings.model import Settings
    from mse_grad_server.workers.protocol import ControlChannel, Placement
    from mse_grad_server.workers.registration import Registration

    channel = await ControlChannel.open(end)
    try:
        message = await channel.receive()
        if message is None:  # the supervisor has ended already
            return ExitCode.OK
        placement = Placement(**message)
        settings = Settings(**placement.settings)
        if settings.keep_freed_memory:
            keep_freed_memory()
        registration = Registration(
            channel, LoopClock(), address=settings.listen, common_address=placement.common_address
        )
        with log_to_stderr(settings.log_level, settings.log_format, worker=placement.worker) as (log, writer):
            return await exit_code_of(lifecycle.run(settings, log, registration, writer=writer), log)
    finally:
        await channel.close()


if __name__ == "__main__":
    sys.exit(main())
