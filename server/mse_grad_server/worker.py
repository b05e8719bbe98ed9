"""One worker of a host: `python -m mse_grad_server.worker <name> <descriptor>`, which the supervisor starts."""

from __future__ import annotations

import asyncio
import socket
import sys

from mse_grad_server import app
from mse_grad_server.allocator import keep_freed_memory
from mse_grad_server.clock import LoopClock
from mse_grad_server.config import Settings
from mse_grad_server.ending import exit_code_of
from mse_grad_server.exits import ExitCode
from mse_grad_server.link import Link
from mse_grad_server.log import forward_library_logs, open_log
from mse_grad_server.membership import Membership
from mse_grad_server.roster import Placement

__all__ = ["main"]


def main(arguments: list[str]) -> ExitCode:
    """Serves until the supervisor says so, or has ended; returns how the process ends.

    Args:
        arguments: The worker's name, which is there for those who list processes, and the descriptor of its end of the
            link.
    """
    _, descriptor = arguments
    return asyncio.run(_work(socket.socket(fileno=int(descriptor))))


async def _work(end: socket.socket) -> ExitCode:
    link = await Link.open(end)
    try:
        message = await link.receive()
        if message is None:  # the supervisor has ended already
            return ExitCode.OK
        placement = Placement(**message)
        settings = Settings(**placement.settings)
        if settings.keep_freed_memory:
            keep_freed_memory()
        log = open_log(settings.log_level, settings.log_format, stream=sys.stderr).bind(worker=placement.worker)
        forward_library_logs(log)
        membership = Membership(link, LoopClock(), address=settings.listen, common_address=placement.common_address)
        return await exit_code_of(app.run(settings, log, membership), log)
    finally:
        await link.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
