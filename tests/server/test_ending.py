from __future__ import annotations

import io
import json

import pytest

from mse_grad_server.ending import exit_code_of
from mse_grad_server.exits import ExitCode, ListenError
from mse_grad_server.log import open_log


async def ends_with(outcome: ExitCode | Exception) -> tuple[ExitCode, list[dict[str, object]]]:
    """Returns the exit code of work with that outcome, and the lines of its log."""

    async def work() -> ExitCode:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    stream = io.StringIO()
    code = await exit_code_of(work(), open_log("info", "json", stream=stream))
    return code, [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.DEVICE_LOST])
async def test_what_work_returns_is_the_exit_code(code: ExitCode) -> None:
    assert await ends_with(code) == (code, [])


async def test_a_start_that_fails_has_its_code_and_its_words() -> None:
    code, (line,) = await ends_with(ListenError("cannot listen on 127.0.0.1:1"))
    assert code is ExitCode.LISTEN
    assert (line["event"], line["message"], line["exit_code"]) == ("start_failed", "cannot listen on 127.0.0.1:1", 3)


async def test_anything_else_is_a_crash_with_its_traceback() -> None:
    code, (line,) = await ends_with(ZeroDivisionError("division by zero"))
    assert code is ExitCode.FAILED
    assert (line["event"], line["exit_code"]) == ("crashed", 1)
    assert "ZeroDivisionError: division by zero" in str(line["exception"])
