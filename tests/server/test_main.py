from __future__ import annotations

import sys

import pytest

from mse_grad.version import VERSION
from mse_grad_server import __main__ as command
from mse_grad_server.__main__ import main
from mse_grad_server.process.exits import ExitCode


def test_the_version_is_that_of_the_package(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == ExitCode.OK
    assert capfd.readouterr().out == f"mse-grad-server {VERSION}\n"


def test_the_settings_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config", "--window-chunks", "3"]) == ExitCode.OK
    assert "window_chunks: 3" in capfd.readouterr().out


def test_a_wrong_setting_is_named_on_stderr_and_the_code_is_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--window-chunks", "0"]) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith("mse-grad-server: --window-chunks is '0'")
    assert printed.out == ""


@pytest.mark.parametrize(("flags", "kept"), [((), 1), (("--no-keep-freed-memory",), 0)])
def test_malloc_keeps_freed_memory_unless_the_settings_forbid_it(
    flags: tuple[str, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(None))

    def end(_: str) -> bool:
        raise InterruptedError("far enough")

    monkeypatch.setattr(command, "set_grpc_environment", end)
    with pytest.raises(InterruptedError):
        main(list(flags))
    assert len(calls) == kept


def test_without_the_extra_the_command_says_how_to_install_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    for name in [name for name in sys.modules if name.startswith("mse_grad_server.process.log")]:
        monkeypatch.delitem(sys.modules, name)
    assert main([]) == ExitCode.FAILED
    assert "pip install 'mse-grad[server]' (there is no structlog)" in capfd.readouterr().err
