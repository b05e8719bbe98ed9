"""How a process ends: what ended its work becomes an exit code, and a line in the log."""

from __future__ import annotations

from collections.abc import Awaitable

from structlog.typing import FilteringBoundLogger

from mse_grad_server.exits import ExitCode, StartError

__all__ = ["exit_code_of"]


async def exit_code_of(work: Awaitable[ExitCode], log: FilteringBoundLogger) -> ExitCode:
    """Returns what `work` returns, or the code of what it raises, which it logs."""
    try:
        return await work
    except StartError as error:
        log.error("start_failed", message=str(error), exit_code=int(error.exit_code))
        return error.exit_code
    except Exception:
        log.exception("crashed", exit_code=int(ExitCode.FAILED))
        return ExitCode.FAILED
