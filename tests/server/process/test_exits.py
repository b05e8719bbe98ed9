from __future__ import annotations

import io
import json

import pytest

from mse_grad_server.process import exits
from mse_grad_server.process.exits import ExitCode, ListenError, SettingsError, StartError, exit_code_of
from mse_grad_server.process.log import open_log


def test_every_public_name_exists() -> None:
    assert set(exits.__all__) <= set(vars(exits))


def test_every_start_error_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in StartError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert ExitCode.OK not in codes
    assert SettingsError.exit_code == 2


async def ends_with(outcome: ExitCode | Exception) -> tuple[ExitCode, list[dict[str, object]]]:
    """Returns the exit code of work with this outcome, and the lines that it logged."""

    async def work() -> ExitCode:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    stream = io.StringIO()
    code = await exit_code_of(work(), open_log("info", "json", stream=stream))
    return code, [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("code", [ExitCode.OK, ExitCode.DEVICE_LOST])
async def test_the_result_of_the_work_is_the_exit_code(code: ExitCode) -> None:
    assert await ends_with(code) == (code, [])


async def test_a_start_error_is_logged_and_gives_its_exit_code() -> None:
    code, (line,) = await ends_with(ListenError("cannot listen on 127.0.0.1:1"))
    assert code is ExitCode.LISTEN
    assert (line["event"], line["message"], line["exit_code"]) == ("start_failed", "cannot listen on 127.0.0.1:1", 3)


async def test_any_other_error_is_logged_as_a_crash_with_its_traceback() -> None:
    code, (line,) = await ends_with(ZeroDivisionError("division by zero"))
    assert code is ExitCode.FAILED
    assert (line["event"], line["exit_code"]) == ("crashed", 1)
    assert "ZeroDivisionError: division by zero" in str(line["exception"])
