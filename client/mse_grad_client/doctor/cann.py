"""The driver and the toolkit: where they are, which versions, and whether they fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from mse_grad_client.doctor.finding import Finding, error, ok, warning
from mse_grad_client.doctor.host import Host

__all__ = ["TOOLKIT_VARIABLES", "driver_folder", "examine_cann", "toolkit_folder"]

TOOLKIT_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_INSTALLED = "/etc/ascend_install.info"
_DRIVER = "/usr/local/Ascend/driver"
_TOOLKITS = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/latest", "/usr/local/Ascend/cann")
_VERSION_FILES = ("runtime/version.info", "version.info", "compiler/version.info", "opp/version.info", "version.cfg")
_VERSION_KEYS = ("Version", "version", "runtime_running_version")
_RELEASE = re.compile(r"V\d+R\d+C\d+")


def driver_folder(host: Host) -> PurePosixPath:
    """Returns where the driver is, or where it would be."""
    parent = host.fields(_INSTALLED).get("Driver_Install_Path_Param")
    return PurePosixPath(parent, "driver") if parent else PurePosixPath(_DRIVER)


def toolkit_folder(host: Host) -> PurePosixPath | None:
    """Returns where the toolkit is: as the environment says, or where it is installed by default; None for nowhere."""
    named = [host.environment[name] for name in TOOLKIT_VARIABLES if host.environment.get(name)]
    folders = [PurePosixPath(name) for name in (*named, *_TOOLKITS)]
    return next((folder for folder in folders if host.path(str(folder)).is_dir()), None)


def examine_cann(host: Host) -> Iterator[Finding]:
    """Yields what there is to say of driver and toolkit."""
    folder, toolkit = driver_folder(host), toolkit_folder(host)
    driver_file = f"{folder}/version.info"
    driver = host.fields(driver_file)
    driver_version = driver.get("package_version") or driver.get("Version")
    if driver_version is None:
        yield error(
            "driver",
            f"{driver_file} is not there or names no version",
            "install the driver and the firmware of the NPU; into a container mount /usr/local/Ascend/driver/lib64, "
            "/usr/local/Ascend/driver/version.info and /etc/ascend_install.info",
        )
    else:
        yield ok("driver", f"{driver_version} in {folder}")
    if toolkit is None:
        looked = ", ".join((*(f"${name}" for name in TOOLKIT_VARIABLES), *_TOOLKITS))
        yield error("toolkit", f"is in none of {looked}", "install the CANN toolkit, 8.5 or newer; an image brings it")
        return
    fields = _toolkit_fields(host, toolkit)
    version = next((fields[key] for key in _VERSION_KEYS if key in fields), None)
    if version is None:
        yield warning("toolkit", f"{toolkit} does not say its version", "it may not be whole: install it anew")
    else:
        # "[7.6.0.1.220:8.0.0]": the component, then the release
        yield ok("toolkit", f"CANN {version.strip('[]').split(':')[-1]} in {toolkit}")
    if driver_version is not None:
        yield from _examine_fit(driver, fields)


def _toolkit_fields(host: Host, toolkit: PurePosixPath) -> dict[str, str]:
    found = (host.fields(f"{toolkit}/{name}") for name in _VERSION_FILES)
    return next((fields for fields in found if any(key in fields for key in _VERSION_KEYS)), {})


def _examine_fit(driver: dict[str, str], toolkit: dict[str, str]) -> Iterator[Finding]:
    subject = "driver and toolkit"
    has, needs = driver.get("ascendhal_version", ""), toolkit.get("required_driver_ascendhal_version", "")
    if has and needs and _numbers(has) < _numbers(needs):
        text = f"the driver's interface is {has}, the toolkit needs {needs}"
        yield error(subject, text, "install a newer driver, or an older toolkit")
        return
    # What a driver takes beside its own release; a toolkit names its own as "V100R001C19SPC001B220".
    taken = _RELEASE.findall(driver.get("compatible_version", ""))
    release = _RELEASE.match(toolkit.get("Innerversion", ""))
    if taken and release is not None and release[0] not in taken:
        text = f"the toolkit is of release {release[0]}, the driver names {', '.join(taken)}"
        yield warning(subject, text, "compare both with the table of versions of the CANN release notes")
    elif has and needs:
        yield ok(subject, f"the driver's interface {has} is at least {needs}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
