from __future__ import annotations

import sys
from importlib.metadata import version

import pytest

import mse_grad_server
from mse_grad_server import command
from mse_grad_server.__main__ import main
from mse_grad_server.exits import ExitCode


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"mse-grad-server {version('mse-grad')}\n"


def test_the_settings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config", "--window-chunks", "3"]) == ExitCode.OK
    assert "window_chunks: 3" in capsys.readouterr().out


def test_a_wrong_setting_is_named_on_stderr_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--window-chunks", "0"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("mse-grad-server: --window-chunks is '0'")
    assert printed.out == ""


@pytest.mark.parametrize(("flags", "kept"), [((), 1), (("--no-keep-freed-memory",), 0)])
def test_malloc_is_told_to_keep_memory_unless_the_settings_say_no(
    flags: tuple[str, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(None))

    def end(_: str) -> None:
        raise InterruptedError("far enough")

    monkeypatch.setattr(command, "set_grpc_environment", end)
    with pytest.raises(InterruptedError):
        main(list(flags))
    assert len(calls) == kept


def test_without_the_extra_the_command_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    for name in ("app", "command", "log", "recorder"):
        monkeypatch.delitem(sys.modules, f"mse_grad_server.{name}", raising=False)
        monkeypatch.delattr(mse_grad_server, name, raising=False)
    assert main([]) == ExitCode.FAILED
    assert "pip install 'mse-grad[server]' (there is no structlog)" in capsys.readouterr().err
