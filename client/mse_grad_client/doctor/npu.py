"""The host of an NPU: whether a server could run here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mse_grad_client.doctor.cann import TOOLKIT_VARIABLES, driver_folder, examine_cann, toolkit_folder
from mse_grad_client.doctor.devices import bus_ids, device_files, examine_devices
from mse_grad_client.doctor.finding import Finding, ok, warning
from mse_grad_client.doctor.host import Host
from mse_grad_client.doctor.libraries import examine_libraries
from mse_grad_client.doctor.software import missing_of_extra

__all__ = ["examine_npu", "has_npu"]

_NPU_SMI = ("/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi", "/usr/bin/npu-smi", "/usr/sbin/npu-smi")
# Where CANN writes: logs, compiled kernels, work files.
_WRITTEN = ("ASCEND_PROCESS_LOG_PATH", "ASCEND_CACHE_PATH", "ASCEND_WORK_PATH")


def has_npu(host: Host) -> bool:
    """Returns whether anything here speaks of an NPU: a chip, a device file, a driver, a toolkit, a variable."""
    return bool(
        device_files(host)
        or bus_ids(host)
        or toolkit_folder(host)
        or host.path(str(driver_folder(host))).is_dir()
        or any(host.environment.get(name) for name in TOOLKIT_VARIABLES)
    )


def examine_npu(host: Host) -> Iterator[Finding]:
    """Yields what there is to say of a host on which a server is to use an NPU."""
    yield from examine_devices(host)
    yield from examine_cann(host)
    yield from examine_libraries(host)
    yield _examine_npu_smi(host)
    for name in _WRITTEN:
        folder = host.environment.get(name)
        if folder:
            yield _examine_written(host, name, folder)
    missing = missing_of_extra("server")
    if missing:
        text = f"the server's libraries are not installed: {', '.join(missing)}"
        yield warning("mse-grad-server", text, "pip install 'mse-grad[server]'")
    else:
        yield ok("mse-grad-server", "is installed")


def _examine_npu_smi(host: Host) -> Finding:
    found = next((name for name in _NPU_SMI if host.path(name).exists()), None)
    if found is None:
        return warning("npu-smi", "is not there", "it comes with the driver; into a container mount it")
    return ok("npu-smi", f"{found}; `npu-smi info` shows the health of the chips")


def _examine_written(host: Host, name: str, folder: str) -> Finding:
    path = host.path(folder)
    existing = next(parent for parent in (path, *path.parents) if parent.exists() or parent == Path("/"))
    if host.may_use(existing):
        return ok(name, folder)
    return warning(name, f"{folder} may not be written", "name a folder of the server's user, e.g. on a tmpfs")
