"""Life cycle of a serving process: start, stop signals, drain and exit code."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from structlog.typing import FilteringBoundLogger

from mse_grad_server.app import Server
from mse_grad_server.process.clock import LoopClock
from mse_grad_server.process.exits import ExitCode
from mse_grad_server.process.garbage import Collector, controlled_collections
from mse_grad_server.process.log_writer import LogWriter
from mse_grad_server.process.signals import on_stop_signals
from mse_grad_server.settings.model import Settings
from mse_grad_server.workers.metrics_page import as_json
from mse_grad_server.workers.registration import Registration

__all__ = ["run"]

# Clients usually reconnect right after GoAway. The listener stays open this long, so that they get UNAVAILABLE with
# reason DRAINING from the server instead of a bare CANCELLED from gRPC.
_LAST_REFUSALS_S = 0.2


async def run(
    settings: Settings,
    log: FilteringBoundLogger,
    registration: Registration | None = None,
    *,
    writer: LogWriter | None = None,
) -> ExitCode:
    """Serves until a stop signal or the loss of the device, then drains; a second signal ends the process at once.

    A worker also drains once its supervisor has ended. A second signal does nothing to a worker: a signal to the whole
    process group reaches it twice, and forcing the end is up to the supervisor.

    Args:
        settings: The settings.
        log: The log.
        registration: Registration of the worker with its supervisor; None without a supervisor.
        writer: Writer of the lines of `log`, or None if they are written at once.

    Raises:
        StartError: The server cannot start.
    """
    stopping = asyncio.Event()
    is_alone = registration is None

    def on_supervisor_end() -> None:
        if not stopping.is_set():
            stopping.set()
            log.warning("supervisor_ended")

    def end_at_once(code: ExitCode) -> None:
        if writer is not None:
            writer.close()
        _end_process(code)

    on_stop_signals(log, stop=stopping.set, force=lambda: end_at_once(ExitCode.FORCED) if is_alone else None)
    server = Server(settings, log, registration=registration, lost_lines=None if writer is None else writer.lost)
    if registration is not None:
        attending = asyncio.ensure_future(registration.attend(lambda: as_json(server.metrics.registry)))
        attending.add_done_callback(lambda _: on_supervisor_end())
    watches = (server.watch_device, server.watch_credentials, Collector(LoopClock()).run)
    watching = asyncio.gather(*(watch() for watch in watches))  # ends only by an error
    opening = asyncio.ensure_future(server.open())
    asked_to_stop = asyncio.ensure_future(stopping.wait())
    tasks: list[asyncio.Future[Any]] = [opening, asked_to_stop, watching]
    ends: list[asyncio.Future[Any]] = [asked_to_stop, server.lost, watching]
    try:
        await asyncio.wait({opening, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            await opening
            with controlled_collections():
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                await server.drain()
            if watching.done():
                watching.result()
            await asyncio.sleep(_LAST_REFUSALS_S)
        log.info("stopping")
    finally:
        stopping.set()  # if the start failed, this worker closes the control channel, not the supervisor
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # otherwise asyncio logs their errors
        if not await server.close():
            log.error("backend_hangs", exit_code=int(ExitCode.FAILED))
            end_at_once(ExitCode.FAILED)  # a normal exit would wait for the hanging thread
    return server.lost.result().exit_code if server.lost.done() else ExitCode.OK


def _end_process(code: ExitCode) -> None:
    os._exit(code)
