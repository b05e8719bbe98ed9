"""Findings of the doctor on folders that stand for the root directory of an NPU host."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mse_grad_server.backends.ascend.startup.libraries import find_libraries
from mse_grad_server.doctor.command import examine_npu, has_npu, run
from mse_grad_server.doctor.compiler import examine_compiler
from mse_grad_server.doctor.finding import Finding, Level
from mse_grad_server.process.exits import ExitCode
from mse_grad_server.settings.model import Settings
from support.npu.simulator import require_simulator
from support.npu.toolkit import executable

DRIVER_INFO = """Version=24.1.rc3
ascendhal_version=7.35.23
Innerversion=V100R001C19SPC001B220
compatible_version=[V100R001C17],[V100R001C18],[V100R001C19]
package_version=24.1.rc3
"""
TOOLKIT_INFO = """Version=7.6.0.1.220:9.1.0
required_driver_ascendhal_version="4.0.0"
Innerversion=V100R001C18SPC001B100
"""
OPAPI = Path("op_api/lib/libcust_opapi.so")


@dataclass(frozen=True)
class Host:
    """A folder that stands for "/", and the variables of a process there."""

    root: Path
    environment: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def toolkit(self) -> Path:
        return self.root / "toolkit"

    @property
    def package(self) -> Path:
        return self.toolkit / "opp/vendors/mse_grad" / OPAPI

    def with_variables(self, **variables: str) -> Host:
        return replace(self, environment={**self.environment, **variables})

    def findings(self) -> list[Finding]:
        settings = Settings(backend="ascend", **self.settings)
        return list(examine_npu(settings, self.environment, self.root))

    def found(self, subject: str) -> Finding:
        (finding,) = [finding for finding in self.findings() if finding.subject == subject]
        return finding

    def only(self, subject: str, level: Level) -> Finding:
        """Checks that only the finding about `subject` is not ok, and returns it."""
        findings = self.findings()
        assert {finding.level for finding in findings if finding.subject != subject} == {Level.OK}, findings
        (finding,) = [finding for finding in findings if finding.subject == subject]
        assert finding.level is level
        assert finding.advice
        return finding


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Host:
    """A host that lacks nothing."""
    write(tmp_path / "etc/ascend_install.info", "UserName=HwHiAiUser\nDriver_Install_Path_Param=/usr/local/Ascend\n")
    write(tmp_path / "usr/local/Ascend/driver/version.info", DRIVER_INFO)
    write(tmp_path / "usr/local/bin/npu-smi")
    for name in ("davinci0", "davinci1", "davinci10", "davinci_manager", "devmm_svm", "hisi_hdc"):
        write(tmp_path / "dev" / name)
    for number in range(2):
        for name, text in (("vendor", "0x19e5\n"), ("device", "0xd802\n"), ("class", "0x120000\n")):
            write(tmp_path / f"sys/bus/pci/devices/0000:0{number}:00.0/{name}", text)
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin/python3", "#!/bin/sh\necho '[]'\n")
    host = Host(tmp_path, {"PATH": str(tmp_path / "bin"), "ASCEND_HOME_PATH": str(tmp_path / "toolkit")})
    write(host.toolkit / "runtime/version.info", TOOLKIT_INFO)
    simulator = require_simulator()
    for library, place in (
        ("libacl_rt.so", host.toolkit / "lib64"),
        ("libnnopbase.so", host.toolkit / "lib64"),
        ("libcust_opapi.so", host.package.parent),
    ):
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(simulator / library, place)
    return host


def test_a_laptop_has_no_trace_of_an_npu(tmp_path: Path) -> None:
    assert not has_npu({"HOME": "/root"}, tmp_path)


@pytest.mark.parametrize(
    "trace", ["dev/davinci3", "usr/local/Ascend/driver/version.info", "usr/local/Ascend/cann/version.cfg"]
)
def test_a_trace_of_an_npu_is_enough_to_look_for_the_rest(tmp_path: Path, trace: str) -> None:
    write(tmp_path / trace)
    assert has_npu({}, tmp_path)


def test_on_a_complete_host_everything_is_ok(whole: Host) -> None:
    findings = whole.findings()
    assert {finding.level for finding in findings} == {Level.OK}, findings
    texts = {finding.subject: finding.text for finding in findings}
    assert texts["chip"] == "2 x Ascend 910B"
    assert texts["devices"] == "NPU 0, 1, 10"
    assert texts["driver"].startswith("24.1.rc3 in ")
    assert texts["toolkit"].startswith("CANN 9.1.0, ")
    assert texts["driver and toolkit"] == "the driver's interface 7.35.23 is at least 4.0.0"
    assert texts["operator package"] == f"{whole.package} loads"
    assert texts["NPUs of a process"] == "1, as the runtime says"


@pytest.mark.parametrize("variable", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_it_finds_the_servers_libraries_by_each_variable(whole: Host, variable: str) -> None:
    host = replace(whole, environment={"PATH": whole.environment["PATH"], variable: str(whole.toolkit)})
    libraries = find_libraries(runtime_folder="", op_library="", environment=host.environment)
    assert host.found("operator package").text == f"{libraries.opapi} loads"
    assert str(libraries.ascendcl) in host.found("toolkit").text


def test_on_an_empty_host_each_missing_piece_is_named_with_its_remedy(tmp_path: Path) -> None:
    host = Host(tmp_path, {"PATH": ""})
    missing = [finding for finding in host.findings() if finding.level is Level.ERROR]
    assert [finding.subject for finding in missing] == ["devices", "driver", "toolkit"]
    assert all(finding.advice for finding in missing)


def test_a_missing_package_is_reported_in_the_servers_words(whole: Host) -> None:
    whole.package.unlink()
    finding = whole.only("operator package", Level.ERROR)
    assert "custom_opp_*.run" in finding.text
    assert "exits with code 11" in finding.advice


def test_a_device_that_does_not_open_is_reported_in_the_servers_words(whole: Host) -> None:
    (whole.root / "dev/davinci0").unlink()
    (whole.root / "dev/davinci0").mkdir()  # a folder cannot be opened for writing, whatever its permissions
    assert whole.found("permissions").level is Level.OK


def test_a_variable_under_which_executors_crash_is_an_error(whole: Host) -> None:
    finding = whole.with_variables(ACLNN_CACHE_LIMIT="0").only("environment", Level.ERROR)
    assert "ACLNN_CACHE_LIMIT" in finding.text
    assert "exits with code 2" in finding.advice


def test_a_device_that_a_process_does_not_see_is_an_error(whole: Host) -> None:
    host = replace(whole, settings={"devices": "0-1"})
    assert "there is no device 1" in host.only("NPUs of a process", Level.ERROR).text


def test_a_missing_manager_is_an_error(whole: Host) -> None:
    (whole.root / "dev/davinci_manager").unlink()
    assert "/dev/davinci_manager" in whole.only("device files", Level.ERROR).text


def test_visible_devices_are_listed(whole: Host) -> None:
    host = whole.with_variables(ASCEND_RT_VISIBLE_DEVICES="1,10")
    assert host.found("devices").text == "NPU 0, 1, 10; processes see 1,10 of them, numbered from 0"


def test_a_driver_older_than_the_toolkit_needs_is_an_error(whole: Host) -> None:
    write(whole.toolkit / "runtime/version.info", TOOLKIT_INFO.replace("4.0.0", "8.0.1"))
    finding = whole.only("driver and toolkit", Level.ERROR)
    assert finding.text == "the driver's interface is 7.35.23, the toolkit needs 8.0.1"


def test_a_toolkit_of_a_release_that_the_driver_does_not_name_is_a_warning(whole: Host) -> None:
    write(whole.toolkit / "runtime/version.info", TOOLKIT_INFO.replace("C18", "C25"))
    finding = whole.only("driver and toolkit", Level.WARNING)
    assert "release V100R001C25, the driver names V100R001C17, V100R001C18, V100R001C19" in finding.text


def test_another_chip_is_a_warning(whole: Host) -> None:
    for path in whole.root.glob("sys/bus/pci/devices/*/device"):
        path.write_text("0xd500\n")
    assert whole.only("chip", Level.WARNING).text == "2 x Ascend 310P"


def test_a_library_that_does_not_load_is_reported_with_the_loaders_message(whole: Host) -> None:
    write(whole.toolkit / "lib64/libacl_rt.so", "no library")
    finding = whole.found("runtime")
    assert finding.level is Level.ERROR
    assert "does not load" in finding.text


def test_a_package_of_others_with_an_operator_of_this_name_is_a_warning(whole: Host) -> None:
    other = write(whole.toolkit / "opp/vendors/aaa" / OPAPI, "aclnnMseLossGrad")
    assert whole.only("other packages", Level.WARNING).text == f"{other} has an operator of this name too"


def test_a_list_of_vendors_without_ours_is_a_warning(whole: Host) -> None:
    write(whole.toolkit / "opp/vendors/config.ini", "load_priority=customize\n")
    assert "does not name mse_grad" in whole.only("config.ini", Level.WARNING).text
    named = whole.with_variables(ASCEND_CUSTOM_OPP_PATH=str(whole.package.parents[2]))
    assert {finding.level for finding in named.findings()} == {Level.OK}


def test_a_variable_that_leads_nowhere_is_an_error(whole: Host) -> None:
    finding = whole.with_variables(ASCEND_OPP_PATH="/gone/opp").found("ASCEND_OPP_PATH")
    assert (finding.level, finding.text) == (Level.ERROR, "names /gone/opp, which does not exist")


def test_a_folder_that_is_not_writable_is_a_warning(whole: Host) -> None:
    host = whole.with_variables(ASCEND_PROCESS_LOG_PATH="/proc/npu")
    assert host.only("ASCEND_PROCESS_LOG_PATH", Level.WARNING).text == "/proc/npu is not writable"


def test_a_python_without_the_compiler_s_packages_is_a_warning(whole: Host) -> None:
    executable(whole.root / "bin/python3", '#!/bin/sh\necho \'["psutil", "scipy"]\'\n')
    finding = whole.only("compiler's Python", Level.WARNING)
    assert "lacks psutil, which" in finding.text
    assert finding.advice.endswith("python3 -m pip install psutil")


def test_packages_for_older_compilers_are_listed_without_a_warning(whole: Host) -> None:
    executable(whole.root / "bin/python3", '#!/bin/sh\necho \'["scipy", "yaml"]\'\n')
    finding = examine_compiler(whole.environment)
    assert finding.level is Level.OK
    assert "toolkits before 9 also need scipy, pyyaml" in finding.text


def test_the_check_runs_the_python(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a link would lose the virtual environment
    python.chmod(0o755)
    finding = examine_compiler({**os.environ, "PATH": str(tmp_path)})
    assert "numpy" not in finding.text.partition("toolkits before")[0].partition("lacks")[2]


def test_the_command_ends_with_1_for_an_error_and_json_has_every_finding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--backend", "ascend", "--json"], root=tmp_path) == ExitCode.FAILED
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["npu_host"]) == ("error", True)
    for finding in report["findings"]:
        assert set(finding) == {"subject", "level", "text", "advice"}
        assert bool(finding["advice"]) is (finding["level"] != "ok")


def test_a_host_without_an_npu_is_ok_and_the_report_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run([], root=tmp_path) == ExitCode.OK
    *_, last_but_one, last = capsys.readouterr().out.splitlines()
    assert last_but_one.startswith("This machine has no Ascend NPU")
    assert last == "No problems found."


def test_a_wrong_setting_ends_the_doctor_as_it_ends_the_server(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--devices", "x"], root=tmp_path) == ExitCode.SETTINGS
    assert "--devices is 'x'" in capfd.readouterr().err
