"""Checks of settings against each other; the type of a setting checks its own value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from mse_grad_server.settings.address import Address
from mse_grad_server.settings.value_types import size_text

if TYPE_CHECKING:
    from mse_grad_server.settings.model import Settings

__all__ = ["Fault", "faults_of"]

Fault: TypeAlias = tuple[str, str]
"""The name of a wrong setting, and what is wrong with it."""


def faults_of(settings: Settings) -> list[Fault]:
    """Returns what is wrong with the settings together."""
    return [fault for check in _CHECKS if (fault := check(settings)) is not None]


def _key_and_certificate(settings: Settings) -> Fault | None:
    if bool(settings.tls_key) == bool(settings.tls_certificate):
        return None
    return "tls_key", "--tls-certificate and --tls-key go together: name both, or neither"


def _client_ca(settings: Settings) -> Fault | None:
    if not settings.tls_client_ca or settings.tls_certificate:
        return None
    return "tls_client_ca", "it needs TLS: --tls-certificate and --tls-key as well"


def _listen(settings: Settings) -> Fault | None:
    has_tls, address = bool(settings.tls_certificate), Address.parse(settings.listen)
    if has_tls and address.path:
        return "listen", "a unix socket never leaves the machine and has no TLS; leave --tls-certificate out"
    if has_tls or address.is_local or settings.insecure_listen:
        return None
    return "listen", (
        "other machines can reach it, without TLS; choose a loopback address, such as 127.0.0.1, or a unix path, give "
        "--tls-certificate and --tls-key, or allow it with --insecure-listen"
    )


def _direct_listen(settings: Settings) -> Fault | None:
    address = settings.direct_address
    if address is None or address.is_local or settings.tls_certificate or settings.insecure_listen:
        return None
    if settings.direct_listen == "auto":  # then the fault is that of --listen
        return None
    return "direct_listen", (
        "other machines can reach it, without TLS; choose a loopback address, such as 127.0.0.1, give "
        "--tls-certificate and --tls-key, or allow it with --insecure-listen"
    )


def _metrics_listen(settings: Settings) -> Fault | None:
    is_allowed = settings.metrics_tls or settings.metrics_insecure_listen or settings.insecure_listen
    if settings.metrics_listen == "none" or is_allowed or Address.parse(settings.metrics_listen).is_local:
        return None
    return "metrics_listen", (
        "other machines can reach it, without TLS; choose a loopback address, such as 127.0.0.1, give --metrics-tls, "
        "or allow it with --metrics-insecure-listen"
    )


def _metrics_tls(settings: Settings) -> Fault | None:
    if not settings.metrics_tls or settings.tls_certificate:
        return None
    return "metrics_tls", "it needs a certificate: --tls-certificate and --tls-key as well"


def _device(settings: Settings) -> Fault | None:
    if not settings.device or settings.backend != "cpu":
        return None
    return "device", "it chooses an NPU, so it needs --backend ascend; --backend cpu has no device to choose"


def _devices(settings: Settings) -> Fault | None:
    if not settings.are_devices_chosen:
        return None
    if settings.backend == "cpu":
        return "devices", "it chooses NPUs, so it needs --backend ascend; for --backend cpu use --workers"
    if settings.device:
        return "devices", "choose the NPUs with --devices alone, or one with --device"
    return None


def _workers(settings: Settings) -> Fault | None:
    if not settings.workers or settings.backend == "cpu":
        return None
    return "workers", (
        "it is for --backend cpu only; --backend ascend has one worker per NPU: choose the NPUs with --devices"
    )


def _device_hang(settings: Settings) -> Fault | None:
    timeout_s = settings.device_timeout_s
    if settings.device_hang_s >= 2 * timeout_s:
        return None
    return "device_hang_s", (
        f"it must be at least twice device_timeout_s, which is {timeout_s:g}: a call may wait that long"
    )


def _chunk(settings: Settings) -> Fault | None:
    message_bytes = settings.max_stream_message_bytes
    if 4 * settings.chunk_bytes <= message_bytes:
        return None
    return "chunk_bytes", (
        f"it must be at most a quarter of max_stream_message_bytes, which is {size_text(message_bytes)}"
    )


def _in_flight(settings: Settings) -> Fault | None:
    largest_bytes = max(settings.max_unary_bytes, settings.max_stream_message_bytes)
    if settings.max_in_flight_bytes >= largest_bytes:
        return None
    return "max_in_flight_bytes", (
        f"it must be at least the largest message, {size_text(largest_bytes)}, or such a message would never be "
        "admitted"
    )


_CHECKS: tuple[Callable[[Settings], Fault | None], ...] = (
    _key_and_certificate,
    _client_ca,
    _listen,
    _direct_listen,
    _metrics_listen,
    _metrics_tls,
    _device,
    _devices,
    _workers,
    _device_hang,
    _chunk,
    _in_flight,
)
