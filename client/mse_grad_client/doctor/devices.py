"""The NPUs: on the bus, as device files, and whether the user may open them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mse_grad_client.doctor.finding import Finding, error, ok, warning
from mse_grad_client.doctor.host import Host

__all__ = ["bus_ids", "device_files", "examine_devices"]

_VENDOR = "0x19e5"  # Huawei
_ACCELERATOR = "0x1200"  # class 12, subclass 00
# Chips by their id on the bus. Source: `lspci` of such hosts, as vendors and users show it.
_CHIPS = {"0xd802": "Ascend 910B", "0xd801": "Ascend 910", "0xd500": "Ascend 310P"}
_SERVED = "0xd802"
_SHARED = ("davinci_manager", "devmm_svm", "hisi_hdc")


def bus_ids(host: Host) -> list[str]:
    """Returns the ids of the NPUs on the PCI bus, such as "0xd802"."""
    found = []
    for folder in sorted(host.path("/sys/bus/pci/devices").glob("*")):
        vendor, kind, id = (
            (host.read(host.name(folder / name)) or "").strip() for name in ("vendor", "class", "device")
        )
        if vendor == _VENDOR and kind.startswith(_ACCELERATOR):
            found.append(id)
    return found


def device_files(host: Host) -> list[Path]:
    """Returns the files of the NPUs, by their numbers."""
    found = [path for path in host.path("/dev").glob("davinci*") if re.fullmatch(r"davinci\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("davinci")))


def examine_devices(host: Host) -> Iterator[Finding]:
    """Yields what there is to say of the NPUs of the host."""
    ids = bus_ids(host)
    if ids:
        yield _examine_chips(ids)
    files = device_files(host)
    if not files:
        yield error(
            "devices",
            "there is no /dev/davinci<N>",
            "is the driver loaded? Start a container with --device /dev/davinci<N>, or with the Ascend runtime",
        )
        return
    numbers = ", ".join(path.name.removeprefix("davinci") for path in files)
    visible = host.environment.get("ASCEND_RT_VISIBLE_DEVICES")
    seen = f"; processes see {visible} of them, numbered from 0" if visible else ""
    yield ok("devices", f"NPU {numbers}{seen}")
    shared = [host.path(f"/dev/{name}") for name in _SHARED]
    missing = [host.name(path) for path in shared if not path.exists()]
    if missing:
        yield error("device files", f"{', '.join(missing)} missing", "load the driver, or add --device for each")
    yield _examine_permissions(host, [*files, *(path for path in shared if path.exists())])


def _examine_chips(ids: list[str]) -> Finding:
    counts = ", ".join(f"{ids.count(id)} x {_CHIPS.get(id, f'an unknown chip, {id}')}" for id in sorted(set(ids)))
    if _SERVED in ids:
        return ok("chip", counts)
    return warning("chip", counts, "the operator is for Ascend 910B and 310B; on another chip it has no kernel")


def _examine_permissions(host: Host, paths: list[Path]) -> Finding:
    closed = [path for path in paths if not host.may_use(path)]
    if not closed:
        return ok("permissions", "the device files may be opened")
    group = closed[0].stat().st_gid
    return error(
        "permissions",
        f"user {host.user_id} may not open {', '.join(host.name(path) for path in closed)}",
        f"join the group {group} of these files (usermod -aG, then log in anew; for a container --group-add {group}, "
        f"in Kubernetes supplementalGroups: [{group}])",
    )
