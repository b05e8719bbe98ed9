from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from mse_grad_server.process.exits import ExitCode, SettingsError
from mse_grad_server.settings.model import Settings
from mse_grad_server.settings.sources import parse_command
from mse_grad_server.settings.text import as_yaml


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MSE_GRAD_")]:
        monkeypatch.delenv(name)


def refusal(*arguments: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse_command(arguments)
    assert error.value.exit_code is ExitCode.SETTINGS
    return str(error.value)


def test_without_any_source_the_defaults_apply() -> None:
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
    needed = ["--tls-certificate=a.pem", "--tls-key=a.key"] if name == "metrics_tls" else []
    given = flag if isinstance(default, bool) else f"{flag}={default}"
    assert parse_command([given, *needed]).origins[name] == flag
    monkeypatch.setenv(f"MSE_GRAD_{name.upper()}", str(default))
    assert parse_command([]).settings == Settings()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        *(("256KiB", 2**18), ("256Ki", 2**18), ("1Mi", 2**20), ("0.5Mi", 2**19), ("1MiB", 2**20)),
        *(("500k", 500_000), ("1M", 10**6), ("1MB", 10**6), ("1e6", 10**6), ("12E5", 1_200_000), ("262144", 2**18)),
    ],
)
def test_sizes_may_be_written_with_the_units_of_kubernetes(text: str, size_bytes: int) -> None:
    assert parse_command(["--chunk-bytes", text]).settings.chunk_bytes == size_bytes


@pytest.mark.parametrize(("unit", "factor"), [("Gi", 2**30), ("Ti", 2**40), ("G", 10**9), ("T", 10**12)])
def test_large_sizes_have_the_units_of_kubernetes_too(unit: str, factor: int) -> None:
    assert parse_command([f"--max-in-flight-bytes=2{unit}"]).settings.max_in_flight_bytes == 2 * factor


@pytest.mark.parametrize("text", ["1e6Mi", "1Mii", "Mi", "1 e6", "-1Mi", "1e999", "0x10", "1Zi"])
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    assert f"--chunk-bytes is {text!r}" in refusal(f"--chunk-bytes={text}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--window-chunks", "x"], ["--window-chunks is 'x'", "1 to 1024"]),
        (["--window-chunks", "0"], ["--window-chunks is '0'", "1 to 1024"]),
        (["--max-unary-bytes", "3GiB"], ["--max-unary-bytes is '3GiB'", "1KiB to"]),
        (["--stall-timeout-s", "nan"], ["--stall-timeout-s is 'nan'", "more than 0 to 86400"]),
        (["--cpu-kernel", "mmx"], ["--cpu-kernel is 'mmx'", "auto, avx512, avx2, neon, portable, numpy"]),
        (["--listen", "0.0.0.0:1"], ["--listen is '0.0.0.0:1'", "--insecure-listen"]),
        (["--direct-listen", "unix:/s"], ["--direct-listen is 'unix:/s'", "over TCP"]),
        (["--direct-listen", "0.0.0.0:1"], ["--direct-listen is '0.0.0.0:1'", "--insecure-listen"]),
        (["--shared-memory-users", "root"], ["--shared-memory-users is 'root'", "numbers (uid)"]),
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
    assert "MSE_GRAD_MAX_STREEMS is not a variable of this server" in refusal()


# Variables of a pod beside the Services `mse-grad`, `mse-grad-metrics` and, with IPv6, `mse-grad-workers`.
SERVICE_LINKS = {
    "MSE_GRAD_SERVICE_HOST": "10.0.0.1",
    "MSE_GRAD_SERVICE_PORT": "50051",
    "MSE_GRAD_SERVICE_PORT_GRPC": "50051",
    "MSE_GRAD_PORT": "tcp://10.0.0.1:50051",
    "MSE_GRAD_PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "MSE_GRAD_PORT_50051_TCP_PROTO": "tcp",
    "MSE_GRAD_PORT_50051_TCP_PORT": "50051",
    "MSE_GRAD_PORT_50051_TCP_ADDR": "10.0.0.1",
    "MSE_GRAD_METRICS_SERVICE_HOST": "10.0.0.2",
    "MSE_GRAD_METRICS_PORT": "tcp://10.0.0.2:9464",
    "MSE_GRAD_WORKERS_SERVICE_PORT_HTTP_2": "1",
    "MSE_GRAD_WORKERS_PORT": "udp://[fd00::1]:53",
    "MSE_GRAD_WORKERS_PORT_53_UDP_ADDR": "fd00::1",
}


def test_service_links_of_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    command = parse_command([])
    assert command.settings == Settings()
    assert set(command.service_links) == set(SERVICE_LINKS)


@pytest.mark.parametrize("name", SERVICE_LINKS)
def test_an_emptied_service_link_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert parse_command([]).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MSE_GRAD_PORT", "50051"),
        ("MSE_GRAD_SERVICE_HOST", "somewhere"),
        ("MSE_GRAD_SERVICE_PORT", "grpc"),
        ("MSE_GRAD_PORT_50051_TCP_PROTO", "http"),
        ("MSE_GRAD_METRICS_PORT", "9464"),
    ],
)
def test_a_setting_that_only_looks_like_a_service_link_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name} is not a variable of this server" in refusal()


@pytest.mark.parametrize("name", [*Settings.model_fields, "config"])
def test_an_empty_variable_is_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MSE_GRAD_{name.upper()}", "")
    command = parse_command([])
    assert command.settings == Settings()
    assert command.origins == {}


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_MAX_STREAMS", "many")
    assert len(refusal("--window-chunks", "0").splitlines()) == 2


def test_an_unknown_key_is_reported_together_with_wrong_values(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("max_streems: 1\nmax_streams: many\n")
    assert len(refusal("--config", str(file)).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_streams: many\n", "max_streams in {file} is 'many'"),
        ("max_streems: 1\n", "max_streems in {file} is not a setting"),
        ("MAX_STREAMS: 1\n", "MAX_STREAMS in {file} is not a setting"),
        ("_env_file: /etc/passwd\n", "_env_file in {file} is not a setting"),
        ("max_streams: 1\nworkers: 0\nmax_streams: 2\n", "{file} is not YAML: found max_streams again"),
        ("- 1\n", "{file} must hold settings"),
        ("hello\n", "{file} must hold settings"),
        ("3: 4\n", "{file} must hold settings"),
        ("a: [\n", "{file} is not YAML"),
        ("workers: 2023-13-45\n", "{file} is not YAML"),
        ("devices: 010\n", "{file}, line 1: YAML reads 010 as a different number from the one it looks like"),
        ("backend: ascend\ndevices: [0, 010]\n", "{file}, line 2: YAML reads 010 as a different number"),
        ("max_streams: 0x10\n", "{file}, line 1: YAML reads 0x10 as a different number"),
        ("stall_timeout_s: 1:30\n", "{file}, line 1: YAML reads 1:30 as a different number"),
        ("stall_timeout_s: 1:30.5\n", "{file}, line 1: YAML reads 1:30.5 as a different number"),
        ("stall_timeout_s: 1_0.5\n", "{file}, line 1: YAML reads 1_0.5 as a different number"),
        ("[" * 5000, "{file} is not YAML"),
        ("max_streams: 1_0\n", "{file}, line 1: YAML reads 1_0 as a different number"),
        ("backend: ascend\ndevices: [0, 0]\n", "devices in {file} is [0, 0]: a device is named twice"),
        ("backend: ascend\ndevices: [0, true]\n", "devices in {file} is [0, True]"),
        ("backend: ascend\ndevices: 1.5\n", "devices in {file} is 1.5"),
        ("backend: ascend\ndevices: {0: 1}\n", "devices in {file} is"),
    ],
    ids=repr,
)
def test_a_wrong_file_is_named_with_its_key(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    assert words.format(file=file) in refusal("--config", str(file))


@pytest.mark.parametrize(
    ("text", "numbers"), [("[0, 1]", (0, 1)), ("[0, 2-3]", (0, 2, 3)), ("3", (3,)), ("0-1", (0, 1)), ("[]", ())]
)
def test_devices_may_be_a_list_in_yaml(text: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"backend: ascend\ndevices: {text}\n")
    assert parse_command(["--config", str(file)]).settings.device_numbers == numbers


def test_other_lists_may_be_lists_in_yaml_too(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("shared_memory_users: [1000, 1001]\ngrpc_experiments: [one, -other]\n")
    settings = parse_command(["--config", str(file)]).settings
    assert settings.shared_memory_uids == {1000, 1001}
    assert settings.grpc_experiments == "one,-other"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
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


def test_the_printed_settings_have_their_sources_and_the_derived_values() -> None:
    command = parse_command(["--max-unary-in-flight", "2"])
    lines = as_yaml(command.settings, command.origins).splitlines()
    (line,) = [line for line in lines if line.startswith("max_unary_in_flight:")]
    assert line.split() == ["max_unary_in_flight:", "2", "#", "--max-unary-in-flight"]
    assert any(line.startswith("# unary_memory_bytes: 256MiB ") for line in lines)
    (line,) = [line for line in lines if line.startswith("# most_memory_bytes:")]
    rounded_gib = float(line.split()[2].removesuffix("GiB"))
    assert 0 <= rounded_gib - command.settings.most_memory_bytes / 2**30 < 0.1
    assert any(line.startswith("max_streams: 256 ") and line.endswith("# default") for line in lines)


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')}" not in text] == []
