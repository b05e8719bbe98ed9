"""Types of settings: sizes, lists, addresses, users and devices, as a user may write them."""

from __future__ import annotations

import grp
import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ByteSize

from mse_grad_server.settings.address import ALL_DEVICES, Address, parse_numbers

__all__ = [
    "Devices",
    "DirectListen",
    "Group",
    "Listen",
    "MetricsListen",
    "Mode",
    "Size",
    "TextList",
    "Users",
    "size_text",
]

_KIB, _MIB, _GIB = 2**10, 2**20, 2**30
# Quantities of Kubernetes: apimachinery's resource.Quantity. ByteSize knows only its decimal units.
_BINARY = re.compile(r"\s*[0-9.]+\s*[kmgtpe]i", re.IGNORECASE)
_MODE = re.compile("0?[0-7]{3}")
_EXPONENT = re.compile(r"\s*[0-9]+e[0-9]{1,2}\s*", re.IGNORECASE)


def size_text(size_bytes: int) -> str:
    """Returns a size as settings write it, e.g. "64MiB"; exact."""
    for unit, unit_bytes in (("GiB", _GIB), ("MiB", _MIB), ("KiB", _KIB)):
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes}{unit}"
    return str(size_bytes)


def _without_quantity(value: object) -> object:
    if isinstance(value, str):
        if _BINARY.fullmatch(value):
            return f"{value}B"
        if _EXPONENT.fullmatch(value):
            digits, exponent = value.lower().split("e")
            return int(digits) * 10 ** int(exponent)
    return value


def _joined(value: object) -> object:
    # YAML writes several values as a list, and reads a single number as an int.
    if isinstance(value, list) and all(type(part) in (str, int) for part in value):
        return ",".join(str(part) for part in value)
    return str(value) if type(value) is int else value


def _checked_listen(text: str) -> str:
    Address.parse(text)
    return text


def _checked_metrics_listen(text: str) -> str:
    if text.lower() in ("", "none"):
        return "none"
    if Address.parse(text).path:
        raise ValueError("metrics are served over HTTP on 'host:port', or not at all: 'none'")
    return text


def _checked_direct_listen(text: str) -> str:
    if text.lower() in ("", "none"):
        return "none"
    if text.lower() == "auto":
        return "auto"
    if Address.parse(text).path:
        raise ValueError("direct connections are over TCP: 'host:port', or 'auto', or none at all: 'none'")
    return text


def _checked_mode(text: str) -> str:
    if text and not _MODE.fullmatch(text):
        raise ValueError("a mode is three octal digits, such as '660', in quotes in a YAML file")
    return text


def _checked_group(text: str) -> str:
    if text and not text.isdecimal():
        try:
            grp.getgrnam(text)
        except KeyError:
            raise ValueError(f"this machine has no group {text!r}; name one, or give its number") from None
    return text


def _checked_users(text: str) -> str:
    if text and not all(number.strip().isdecimal() for number in text.split(",")):
        raise ValueError("users are their numbers (uid), separated by commas, such as '1000,1001'")
    return text


def _checked_devices(text: str) -> str:
    if text.strip().lower() == ALL_DEVICES:
        return ALL_DEVICES
    parse_numbers(text)
    return text


Size: TypeAlias = Annotated[ByteSize, BeforeValidator(_without_quantity)]
"""A size in bytes; text may have a unit."""

TextList: TypeAlias = Annotated[str, BeforeValidator(_joined)]
"""A list as text, with commas."""

Listen: TypeAlias = Annotated[str, AfterValidator(_checked_listen)]
"""An address to listen on."""

MetricsListen: TypeAlias = Annotated[str, AfterValidator(_checked_metrics_listen)]
"""An address with a port, or "none"."""

DirectListen: TypeAlias = Annotated[str, AfterValidator(_checked_direct_listen)]
"""An address with a port, "auto" or "none"."""

Users: TypeAlias = Annotated[TextList, AfterValidator(_checked_users)]
"""Numbers of users."""

Mode: TypeAlias = Annotated[str, AfterValidator(_checked_mode)]
"""Permission bits in octal, or ""."""

Group: TypeAlias = Annotated[TextList, AfterValidator(_checked_group)]
"""Name or number of a group, or ""."""

Devices: TypeAlias = Annotated[TextList, AfterValidator(_checked_devices)]
"""Numbers of devices, or "all"."""
