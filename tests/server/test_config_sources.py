from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from mse_grad_server.config import Settings
from mse_grad_server.config_sources import parse_command
from mse_grad_server.config_text import as_yaml
from mse_grad_server.exits import ExitCode, SettingsError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MSE_GRAD_")]:
        monkeypatch.delenv(name)


def refusal(*arguments: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse_command(arguments)
    assert error.value.exit_code is ExitCode.SETTINGS
    return str(error.value)


def test_without_anything_the_defaults_hold() -> None:
    command = parse_command([])
    assert command.settings == Settings()
    assert command.origins == {}
    assert not command.print_config
    assert not command.version


def test_flags_override_variables_which_override_the_file_which_overrides_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("max_streams: 11\nwindow_chunks: 12\nmax_open_requests: 13\n")
    monkeypatch.setenv("MSE_GRAD_MAX_STREAMS", "21")
    monkeypatch.setenv("MSE_GRAD_WINDOW_CHUNKS", "22")
    command = parse_command(["--config", str(file), "--max-streams", "31"])
    settings = command.settings
    assert (settings.max_streams, settings.window_chunks, settings.max_open_requests) == (31, 22, 13)
    assert command.origins == {
        "max_streams": "--max-streams",
        "window_chunks": "MSE_GRAD_WINDOW_CHUNKS",
        "max_open_requests": f"max_open_requests in {file}",
    }


def test_the_file_can_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("max_streams: 11\n")
    monkeypatch.setenv("MSE_GRAD_CONFIG", str(file))
    assert parse_command([]).settings.max_streams == 11


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_has_a_flag_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = getattr(Settings(), name)
    flag = f"--{name.replace('_', '-')}"
    assert parse_command([flag if isinstance(default, bool) else f"{flag}={default}"]).origins == {name: flag}
    monkeypatch.setenv(f"MSE_GRAD_{name.upper()}", str(default))
    assert parse_command([]).settings == Settings()


def test_sizes_may_be_written_with_units() -> None:
    assert parse_command(["--chunk-bytes", "256KiB"]).settings.chunk_bytes == 2**18


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window-chunks", "x"], ["--window-chunks is 'x'", "1 to 1024"]),
        (["--window-chunks", "0"], ["--window-chunks is '0'", "1 to 1024"]),
        (["--max-unary-bytes", "3GiB"], ["--max-unary-bytes is '3GiB'", "1KiB to"]),
        (["--stall-timeout-s", "nan"], ["--stall-timeout-s is 'nan'", "more than 0 to 86400"]),
        (["--cpu-kernel", "mmx"], ["--cpu-kernel is 'mmx'", "auto, avx512, avx2, neon, portable, numpy"]),
        (["--listen", "0.0.0.0:1"], ["--listen is '0.0.0.0:1'", "--insecure-listen"]),
        (["--no-such", "1"], ["--no-such"]),
        (["--window", "1"], ["--window"]),
        (["stray"], ["stray"]),
        (["--listen"], ["--listen"]),
    ],
    ids=str,
)
def test_a_wrong_flag_is_named_with_what_is_allowed(arguments: list[str], words: list[str]) -> None:
    message = refusal(*arguments)
    assert [word for word in words if word not in message] == []


def test_a_wrong_variable_is_named_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_MAX_STREAMS", "many")
    assert refusal().startswith("MSE_GRAD_MAX_STREAMS is 'many'")


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_MAX_STREEMS", "1")
    assert "MSE_GRAD_MAX_STREEMS is no variable of this server" in refusal()


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_MAX_STREAMS", "many")
    assert len(refusal("--window-chunks", "0").splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_streams: many\n", "max_streams in {file} is 'many'"),
        ("max_streems: 1\n", "max_streems in {file} is no setting"),
        ("- 1\n", "{file} must hold settings"),
        ("hello\n", "{file} must hold settings"),
        ("3: 4\n", "{file} must hold settings"),
        ("a: [\n", "{file} is not YAML"),
    ],
    ids=repr,
)
def test_a_wrong_file_is_named_with_its_key(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert words.format(file=file) in refusal("--config", str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.yaml'}: No such file" in refusal("--config", str(tmp_path / "none.yaml"))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("")
    assert parse_command(["--config", str(file)]).settings == Settings()


def test_the_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    command = parse_command(["--metrics-listen", "", "--chunk-bytes", "64KiB", "--insecure-listen"])
    file = tmp_path / "printed.yaml"
    file.write_text(as_yaml(command.settings, command.origins))
    assert set(yaml.safe_load(file.read_text())) == set(Settings.model_fields)
    assert parse_command(["--config", str(file)]).settings == command.settings


def test_the_printed_settings_say_where_they_come_from_and_what_follows() -> None:
    command = parse_command(["--max-unary-in-flight", "2"])
    lines = as_yaml(command.settings, command.origins).splitlines()
    (line,) = [line for line in lines if line.startswith("max_unary_in_flight:")]
    assert line.split() == ["max_unary_in_flight:", "2", "#", "--max-unary-in-flight"]
    assert any(line.startswith("# unary_memory_bytes: 256MiB") for line in lines)
    assert any(line.startswith("max_streams: 256 ") and line.endswith("# default") for line in lines)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in text] == []
