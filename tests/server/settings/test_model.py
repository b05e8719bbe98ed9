from __future__ import annotations

import grp
from typing import Any

import pytest
from pydantic import ValidationError

from mse_grad_server.process.socket_file import SocketAccess
from mse_grad_server.settings.model import Settings, size_text


def settings(**values: Any) -> Settings:
    return Settings(**values)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().listen = "127.0.0.1:1"


def test_settings_made_in_code_ignore_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSE_GRAD_MAX_STREAMS", "3")
    assert settings().max_streams == 256


@pytest.mark.parametrize(
    ("name", "permission"),
    [
        ("listen", "insecure_listen"),
        ("metrics_listen", "insecure_listen"),
        ("metrics_listen", "metrics_insecure_listen"),
    ],
)
def test_an_address_that_other_machines_reach_needs_a_permission(name: str, permission: str) -> None:
    with pytest.raises(ValidationError, match="insecure-listen"):
        settings(**{name: "0.0.0.0:1"})
    assert getattr(settings(**{permission: True, name: "0.0.0.0:1"}), name) == "0.0.0.0:1"


def test_the_permission_of_the_metrics_opens_no_address_of_the_service() -> None:
    with pytest.raises(ValidationError, match="--insecure-listen"):
        settings(metrics_insecure_listen=True, listen="0.0.0.0:1")


def test_tls_opens_the_service_to_other_machines_and_the_metrics_if_they_use_it() -> None:
    pair = {"tls_certificate": "a.pem", "tls_key": "a.key"}
    assert settings(listen="0.0.0.0:1", **pair).listen == "0.0.0.0:1"
    with pytest.raises(ValidationError, match="--metrics-tls"):
        settings(metrics_listen="0.0.0.0:1", **pair)
    assert settings(metrics_listen="0.0.0.0:1", metrics_tls=True, **pair).metrics_tls
    with pytest.raises(ValidationError, match="--tls-certificate"):
        settings(metrics_tls=True)


@pytest.mark.parametrize("mode", ["66", "0888", "rw", "1777"])
def test_a_mode_of_a_socket_is_three_octal_digits(mode: str) -> None:
    with pytest.raises(ValidationError, match="three octal digits"):
        settings(socket_mode=mode)


def test_mode_and_group_of_a_socket_are_read_as_numbers() -> None:
    assert settings().socket_access == SocketAccess()
    assert settings(socket_mode="660", socket_group="12").socket_access == SocketAccess(0o660, 12)
    assert settings(socket_mode="0660", socket_group=grp.getgrgid(0).gr_name).socket_access == SocketAccess(0o660, 0)
    with pytest.raises(ValidationError, match="no group"):
        settings(socket_group="nobody-has-this-group")


def test_certificate_and_key_go_together() -> None:
    for name in ("tls_certificate", "tls_key"):
        with pytest.raises(ValidationError, match="go together"):
            settings(**{name: "a.pem"})


def test_client_certificates_need_a_server_certificate() -> None:
    with pytest.raises(ValidationError, match="it needs TLS"):
        settings(tls_client_ca="ca.pem")


def test_a_unix_socket_has_no_tls() -> None:
    with pytest.raises(ValidationError, match="a unix socket never leaves the machine"):
        settings(listen="unix:/a", tls_certificate="a.pem", tls_key="a.key")


@pytest.mark.parametrize("text", ["", "none", "NONE"])
def test_metrics_can_be_switched_off(text: str) -> None:
    assert settings(metrics_listen=text).metrics_listen == "none"


def test_metrics_have_no_unix_path() -> None:
    with pytest.raises(ValidationError, match="HTTP"):
        settings(metrics_listen="unix:/a")


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="a quarter of max_stream_message_bytes, which is 16MiB"):
        settings(chunk_bytes=5 * 2**20)
    with pytest.raises(ValidationError, match="at least the largest message, 64MiB"):
        settings(max_in_flight_bytes=2**20)


def test_chunks_for_an_npu_are_larger_by_default() -> None:
    npu = settings(backend="ascend")
    assert (npu.chunk_bytes, npu.window_chunks) == (2 * 2**20, 8)
    npu = settings(backend="ascend", chunk_bytes=2**20, window_chunks=3)
    assert (npu.chunk_bytes, npu.window_chunks) == (2**20, 3)
    assert (settings().chunk_bytes, settings().window_chunks) == (512 * 2**10, 8)


def test_devices_and_workers_make_the_process_a_supervisor() -> None:
    assert not settings().is_supervised
    assert settings(workers=1).is_supervised
    npus = settings(backend="ascend", devices="0,5-6")
    assert npus.is_supervised
    assert npus.device_numbers == (0, 5, 6)
    assert settings(backend="ascend", devices=3).device_numbers == (3,)  # YAML reads a single number as an int
    every = settings(backend="ascend", devices=" All ")
    assert (every.devices, every.is_supervised, every.device_numbers) == ("all", True, ())


def test_devices_belong_to_ascend_and_workers_to_the_cpu() -> None:
    with pytest.raises(ValidationError, match="for --backend cpu use --workers"):
        settings(devices="0-7")
    with pytest.raises(ValidationError, match="for --backend cpu use --workers"):
        settings(devices="all")
    with pytest.raises(ValidationError, match="it chooses an NPU, so it needs --backend ascend"):
        settings(device=3)
    with pytest.raises(ValidationError, match="with --devices alone, or one with --device"):
        settings(backend="ascend", device=3, devices="0-7")
    with pytest.raises(ValidationError, match="choose the NPUs with --devices"):
        settings(backend="ascend", workers=3)


def test_a_process_names_its_device() -> None:
    assert settings().device_name == "cpu"
    assert settings(backend="ascend", device=3).device_name == "npu:3"


def test_device_hang_s_is_at_least_twice_device_timeout_s() -> None:
    with pytest.raises(ValidationError, match="at least twice device_timeout_s, which is 10"):
        settings(device_hang_s=19)
    assert settings(device_hang_s=1, device_timeout_s=0.5).device_hang_s == 1


def test_the_bounds_follow_from_the_settings() -> None:
    told = settings(max_unary_bytes=2**25, max_stream_message_bytes=2**24, max_unary_in_flight=3, window_chunks=5)
    assert told.receive_limit_bytes == 2**26
    assert told.unary_memory_bytes == 3 * 2**26
    assert told.window_bytes == 5 * 4 * 512 * 1024


def test_the_receive_limit_is_finite_and_within_the_limit_of_grpc() -> None:
    largest = settings(max_unary_bytes=2**30 - 1, max_in_flight_bytes=2**30)
    assert 0 < largest.receive_limit_bytes < 2**31


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (2**10, "1KiB"), (3 * 2**20, "3MiB"), (2**31, "2GiB")]
)
def test_sizes_are_written_exactly(size: int, text: str) -> None:
    assert size_text(size) == text
