"""Check of the NPUs: chips on the PCI bus, device files, and the permission to open them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mse_grad_server.backends.ascend.startup.diagnosis import SHARED_FILES, check_permission
from mse_grad_server.backends.ascend.startup.errors import DevicePermission
from mse_grad_server.doctor.files import text_of
from mse_grad_server.doctor.finding import Finding, error, ok, refusal, warning
from mse_grad_server.settings.address import ALL_DEVICES
from mse_grad_server.settings.model import Settings

__all__ = ["bus_ids", "device_files", "examine_devices"]

_VENDOR = "0x19e5"  # Huawei
_ACCELERATOR = "0x1200"  # class 12, subclass 00
# Chips by their id on the PCI bus. Source: output of `lspci` that vendors and users published.
_CHIPS = {"0xd802": "Ascend 910B", "0xd801": "Ascend 910", "0xd500": "Ascend 310P"}
_SERVED = "0xd802"


def bus_ids(root: Path) -> list[str]:
    """Returns the ids of the NPUs on the PCI bus, such as "0xd802"."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind, id = (text_of(folder / name).strip() for name in ("vendor", "class", "device"))
        if vendor == _VENDOR and kind.startswith(_ACCELERATOR):
            found.append(id)
    return found


def device_files(root: Path) -> list[Path]:
    """Returns the device files of the NPUs, in the order of their numbers."""
    found = [path for path in (root / "dev").glob("davinci*") if re.fullmatch(r"davinci\d+", path.name)]
    return sorted(found, key=_number_of)


def examine_devices(settings: Settings, environment: Mapping[str, str], root: Path) -> Iterator[Finding]:
    """Yields the findings about the NPUs of the host.

    Args:
        settings: Settings of the server, which choose among the NPUs.
        environment: Variables of the process.
        root: The folder that stands for "/".
    """
    ids = bus_ids(root)
    if ids:
        yield _examine_chips(ids)
    files = device_files(root)
    if not files:
        yield error(
            "devices",
            "there is no /dev/davinci<N>",
            "is the driver loaded? Start a container with --device /dev/davinci<N>, or with the Ascend runtime",
        )
        return
    visible = environment.get("ASCEND_RT_VISIBLE_DEVICES")
    seen = f"; processes see {visible} of them, numbered from 0" if visible else ""
    yield ok("devices", f"NPU {', '.join(str(_number_of(path)) for path in files)}{seen}")
    missing = [f"/dev/{name}" for name in SHARED_FILES if not (root / "dev" / name).exists()]
    if missing:
        yield error("device files", f"{', '.join(missing)} missing", "load the driver, or add --device for each")
    yield _examine_permissions(settings, environment, root)


def _examine_chips(ids: list[str]) -> Finding:
    counts = ", ".join(f"{ids.count(id)} x {_CHIPS.get(id, f'an unknown chip, {id}')}" for id in sorted(set(ids)))
    if _SERVED in ids:
        return ok("chip", counts)
    return warning("chip", counts, "the operator is for Ascend 910B and 310B; on another chip it has no kernel")


def _examine_permissions(settings: Settings, environment: Mapping[str, str], root: Path) -> Finding:
    if settings.devices == ALL_DEVICES:
        visible = [part for part in environment.get("ASCEND_RT_VISIBLE_DEVICES", "").split(",") if part]
        numbers = tuple(range(len(visible))) if visible else tuple(_number_of(path) for path in device_files(root))
    else:
        numbers = settings.device_numbers or (settings.device,)
    for number in numbers:
        try:
            check_permission(number, environment, device_folder=root / "dev")
        except DevicePermission as why:
            return refusal("permissions", why)
    return ok("permissions", "the device files open")


def _number_of(path: Path) -> int:
    return int(path.name.removeprefix("davinci"))
