"""Check of the driver: its folder, its version, and whether it fits the toolkit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mse_grad_server.backends.ascend.startup.libraries import version_files
from mse_grad_server.doctor.files import fields_of
from mse_grad_server.doctor.finding import Finding, error, ok, warning

__all__ = ["driver_folder", "examine_driver", "examine_fit"]

_NPU_SMI = ("usr/local/bin/npu-smi", "usr/local/sbin/npu-smi", "usr/bin/npu-smi", "usr/sbin/npu-smi")
_RELEASE = re.compile(r"V\d+R\d+C\d+")


def driver_folder(root: Path) -> Path:
    """Returns the folder of the driver, whether or not it exists."""
    parent = fields_of(root / "etc/ascend_install.info").get("Driver_Install_Path_Param", "/usr/local/Ascend")
    return root / parent.lstrip("/") / "driver"


def examine_driver(root: Path) -> Iterator[Finding]:
    """Yields the findings about the driver; `root` stands for "/"."""
    folder = driver_folder(root)
    driver = fields_of(folder / "version.info")
    version = driver.get("package_version") or driver.get("Version")
    if version is None:
        yield error(
            "driver",
            f"{folder / 'version.info'} is not there or names no version",
            "install the driver and the firmware of the NPU; into a container mount /usr/local/Ascend/driver/lib64, "
            "/usr/local/Ascend/driver/version.info and /etc/ascend_install.info",
        )
    else:
        yield ok("driver", f"{version} in {folder}")
    found = next((name for name in _NPU_SMI if (root / name).exists()), None)
    if found is None:
        yield warning("npu-smi", "is not there", "it comes with the driver; into a container mount it")
    else:
        yield ok("npu-smi", f"/{found}; `npu-smi info` shows the health of the chips")


def examine_fit(root: Path, runtime: Path) -> Iterator[Finding]:
    """Yields the findings about driver and toolkit: whether they fit, as far as their files say so."""
    subject = "driver and toolkit"
    driver = fields_of(driver_folder(root) / "version.info")
    toolkit: dict[str, str] = {}
    for file in version_files(runtime):
        toolkit = {**fields_of(file), **toolkit}
    has, needs = driver.get("ascendhal_version", ""), toolkit.get("required_driver_ascendhal_version", "")
    if has and needs and _numbers(has) < _numbers(needs):
        text = f"the driver's interface is {has}, the toolkit needs {needs}"
        yield error(subject, text, "install a newer driver, or an older toolkit")
        return
    # A driver lists the releases that it works with; a toolkit names its release as "V100R001C19SPC001B220".
    taken = _RELEASE.findall(driver.get("compatible_version", ""))
    release = _RELEASE.match(toolkit.get("Innerversion", ""))
    if taken and release is not None and release[0] not in taken:
        text = f"the toolkit is of release {release[0]}, the driver names {', '.join(taken)}"
        yield warning(subject, text, "compare both with the table of versions of the CANN release notes")
    elif has and needs:
        yield ok(subject, f"the driver's interface {has} is at least {needs}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
