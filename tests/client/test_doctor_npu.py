"""What the doctor finds on a host of an NPU, shown on trees that stand for one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mse_grad_client.doctor import Finding, Host, Level, examine_npu
from mse_grad_client.doctor.npu import has_npu
from support.tools import require_program

TOOLKIT = "usr/local/Ascend/ascend-toolkit/latest"
PACKAGE = f"{TOOLKIT}/opp/vendors/mse_grad/op_api/lib/libcust_opapi.so"
SYMBOLS = (
    "aclInit aclrtSetDevice aclCreateTensor aclnnMseLossGradGetWorkspaceSize aclnnMseLossGrad "
    "aclnnMseLossGradPartGetWorkspaceSize aclnnMseLossGradPart"
)
DRIVER_INFO = """Version=24.1.rc3
ascendhal_version=7.35.23
Innerversion=V100R001C19SPC001B220
compatible_version=[V100R001C17],[V100R001C18],[V100R001C19]
package_version=24.1.rc3
"""
TOOLKIT_INFO = """Version=7.6.0.1.220:8.0.0
required_driver_ascendhal_version="4.0.0"
Innerversion=V100R001C18SPC001B100
"""
SOMEBODY = 1234

Compile = Callable[[Path, str], None]


@pytest.fixture(scope="session")
def compile_library(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Makes shared libraries with the given symbols."""
    require_program("g++")
    folder = tmp_path_factory.mktemp("libraries")

    def compiled(path: Path, symbols: str) -> None:
        cached = folder / f"{abs(hash(symbols))}.so"
        if not cached.exists():
            source = "".join(f"int {symbol}(void) {{ return 0; }}\n" for symbol in symbols.split())
            command = ["g++", "-shared", "-fPIC", "-x", "c", "-", "-o", str(cached)]
            subprocess.run(command, input=source, text=True, check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cached.read_bytes())

    return compiled


def write(root: Path, name: str, text: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def whole(tmp_path: Path, compile_library: Compile) -> Host:
    """A host that has everything, as root sees it."""
    write(tmp_path, "etc/ascend_install.info", "UserName=HwHiAiUser\nDriver_Install_Path_Param=/usr/local/Ascend\n")
    write(tmp_path, "usr/local/Ascend/driver/version.info", DRIVER_INFO)
    write(tmp_path, f"{TOOLKIT}/runtime/version.info", TOOLKIT_INFO)
    write(tmp_path, "usr/local/bin/npu-smi")
    for name in ("davinci0", "davinci1", "davinci10", "davinci_manager", "devmm_svm", "hisi_hdc"):
        write(tmp_path, f"dev/{name}").chmod(0o660)
    for number in range(2):
        for name, text in (("vendor", "0x19e5\n"), ("device", "0xd802\n"), ("class", "0x120000\n")):
            write(tmp_path, f"sys/bus/pci/devices/0000:0{number}:00.0/{name}", text)
    for name in (f"{TOOLKIT}/lib64/libascendcl.so", f"{TOOLKIT}/lib64/libnnopbase.so", PACKAGE):
        compile_library(tmp_path / name, SYMBOLS)
    return Host(tmp_path, {"ASCEND_HOME_PATH": f"/{TOOLKIT}"}, 0, frozenset({0}))


def levels(host: Host) -> dict[str, Level]:
    return {finding.subject: finding.level for finding in examine_npu(host)}


def found(host: Host, subject: str) -> Finding:
    (finding,) = [finding for finding in examine_npu(host) if finding.subject == subject]
    return finding


def assert_only(host: Host, subject: str, level: Level) -> Finding:
    """Shows that nothing else is wrong; returns what is."""
    others = {name: other for name, other in levels(host).items() if name != subject}
    assert set(others.values()) == {Level.OK}, others
    finding = found(host, subject)
    assert finding.level is level
    assert finding.advice
    return finding


def test_nothing_speaks_of_an_npu_on_a_laptop(tmp_path: Path) -> None:
    assert not has_npu(Host(tmp_path, {"HOME": "/root"}, 0, frozenset()))


@pytest.mark.parametrize("trace", ["dev/davinci3", "usr/local/Ascend/driver/version.info", f"{TOOLKIT}/version.cfg"])
def test_a_trace_of_an_npu_is_enough_to_look_for_the_rest(tmp_path: Path, trace: str) -> None:
    write(tmp_path, trace)
    assert has_npu(Host(tmp_path, {}, 0, frozenset()))


def test_on_a_whole_host_all_is_well(whole: Host) -> None:
    findings = list(examine_npu(whole))
    assert {finding.level for finding in findings} == {Level.OK}, findings
    texts = {finding.subject: finding.text for finding in findings}
    assert texts["chip"] == "2 x Ascend 910B"
    assert texts["devices"] == "NPU 0, 1, 10"
    assert texts["driver"] == "24.1.rc3 in /usr/local/Ascend/driver"
    assert texts["toolkit"] == f"CANN 8.0.0 in /{TOOLKIT}"
    assert texts["driver and toolkit"] == "the driver's interface 7.35.23 is at least 4.0.0"
    assert texts["operator package"] == f"/{PACKAGE} loads"
    assert texts["npu-smi"].startswith("/usr/local/bin/npu-smi")


def test_on_an_empty_host_each_missing_piece_is_named_with_its_way_out(tmp_path: Path) -> None:
    host = Host(tmp_path, {}, 0, frozenset())
    missing = [finding for finding in examine_npu(host) if finding.level is Level.ERROR]
    assert [finding.subject for finding in missing] == [
        "devices", "driver", "toolkit", "libascendcl.so", "libnnopbase.so", "operator package",
    ]  # fmt: skip
    assert all(finding.advice for finding in missing)


def test_half_a_host_lacks_the_other_half(whole: Host) -> None:
    host = replace(whole, environment={})
    (whole.root / PACKAGE).unlink()
    (whole.root / "usr/local/bin/npu-smi").unlink()
    assert {name: level for name, level in levels(host).items() if level is not Level.OK} == {
        "environment": Level.WARNING,
        "operator package": Level.ERROR,
        "npu-smi": Level.WARNING,
    }
    assert "custom_opp_*.run" in found(host, "operator package").advice


def test_the_script_to_source_is_named(whole: Host) -> None:
    write(whole.root, "usr/local/Ascend/ascend-toolkit/set_env.sh")
    finding = assert_only(replace(whole, environment={}), "environment", Level.WARNING)
    assert finding.advice == "source /usr/local/Ascend/ascend-toolkit/set_env.sh"


def test_a_user_outside_the_group_may_not_open_the_devices(whole: Host) -> None:
    host = replace(whole, user_id=SOMEBODY, group_ids=frozenset({SOMEBODY}))
    finding = assert_only(host, "permissions", Level.ERROR)
    group = (whole.root / "dev/davinci0").stat().st_gid
    assert finding.text.startswith(f"user {SOMEBODY} may not open /dev/davinci0, /dev/davinci1, /dev/davinci10")
    assert f"--group-add {group}" in finding.advice


def test_a_user_of_the_group_may_open_them(whole: Host) -> None:
    group = (whole.root / "dev/davinci0").stat().st_gid
    host = replace(whole, user_id=SOMEBODY, group_ids=frozenset({SOMEBODY, group}))
    assert found(host, "permissions").level is Level.OK


def test_a_group_that_may_only_read_is_not_enough(whole: Host) -> None:
    path = whole.root / "dev/hisi_hdc"
    path.chmod(0o640)
    host = replace(whole, user_id=SOMEBODY, group_ids=frozenset({path.stat().st_gid}))
    assert assert_only(host, "permissions", Level.ERROR).text == f"user {SOMEBODY} may not open /dev/hisi_hdc"


def test_a_missing_manager_is_an_error(whole: Host) -> None:
    (whole.root / "dev/davinci_manager").unlink()
    assert "/dev/davinci_manager" in assert_only(whole, "device files", Level.ERROR).text


def test_visible_devices_are_told(whole: Host) -> None:
    host = replace(whole, environment={**whole.environment, "ASCEND_RT_VISIBLE_DEVICES": "10,1"})
    assert found(host, "devices").text == "NPU 0, 1, 10; processes see 10,1 of them, numbered from 0"


def test_a_driver_older_than_the_toolkit_needs_is_an_error(whole: Host) -> None:
    write(whole.root, f"{TOOLKIT}/runtime/version.info", TOOLKIT_INFO.replace("4.0.0", "8.0.1"))
    finding = assert_only(whole, "driver and toolkit", Level.ERROR)
    assert finding.text == "the driver's interface is 7.35.23, the toolkit needs 8.0.1"


def test_a_toolkit_of_a_release_that_the_driver_does_not_name_is_a_warning(whole: Host) -> None:
    write(whole.root, f"{TOOLKIT}/runtime/version.info", TOOLKIT_INFO.replace("C18", "C25"))
    finding = assert_only(whole, "driver and toolkit", Level.WARNING)
    assert "release V100R001C25, the driver names V100R001C17, V100R001C18, V100R001C19" in finding.text


def test_another_chip_is_a_warning(whole: Host) -> None:
    for path in whole.root.glob("sys/bus/pci/devices/*/device"):
        path.write_text("0xd500\n")
    assert assert_only(whole, "chip", Level.WARNING).text == "2 x Ascend 310P"


def test_a_library_that_does_not_load_is_told_with_the_loader_s_words(whole: Host) -> None:
    write(whole.root, f"{TOOLKIT}/lib64/libascendcl.so", "no library")
    finding = assert_only(whole, "libascendcl.so", Level.ERROR)
    assert "does not load" in finding.text
    assert "/usr/local/Ascend/driver/lib64/driver" in finding.advice


def test_packages_of_others_are_named_where_ours_is_missing(whole: Host, compile_library: Compile) -> None:
    compile_library(whole.root / PACKAGE, "aclnnSomethingElse")
    finding = assert_only(whole, "operator package", Level.ERROR)
    assert finding.text.endswith(f"; packages of others: /{PACKAGE}")


def test_packages_of_others_are_passed_over(whole: Host, compile_library: Compile) -> None:
    other = f"{TOOLKIT}/opp/vendors/aaa/op_api/lib/libcust_opapi.so"
    compile_library(whole.root / other, "aclnnSomethingElse")
    assert found(whole, "operator package").text == f"/{PACKAGE} loads"


def test_a_package_that_lacks_a_symbol_is_of_another_version(whole: Host, compile_library: Compile) -> None:
    compile_library(whole.root / PACKAGE, "aclnnMseLossGradPart aclnnMseLossGradPartGetWorkspaceSize")
    finding = assert_only(whole, "operator package", Level.ERROR)
    assert finding.text == f"/{PACKAGE} lacks aclnnMseLossGradGetWorkspaceSize, aclnnMseLossGrad"


def test_a_package_in_the_environment_comes_first(whole: Host, compile_library: Compile) -> None:
    compile_library(whole.root / "opt/ours/op_api/lib/libcust_opapi.so", SYMBOLS)
    host = replace(whole, environment={**whole.environment, "ASCEND_CUSTOM_OPP_PATH": "/opt/ours"})
    assert found(host, "operator package").text == "/opt/ours/op_api/lib/libcust_opapi.so loads"


def test_the_priority_of_the_vendors_is_kept(whole: Host, compile_library: Compile) -> None:
    vendors = f"{TOOLKIT}/opp/vendors"
    compile_library(whole.root / f"{vendors}/aaa/op_api/lib/libcust_opapi.so", SYMBOLS)
    assert f"/{vendors}/aaa/" in found(whole, "operator package").text
    write(whole.root, f"{vendors}/config.ini", "load_priority=mse_grad,aaa\n")
    assert f"/{vendors}/mse_grad/" in found(whole, "operator package").text


def test_a_variable_that_leads_nowhere_is_an_error(whole: Host) -> None:
    host = replace(whole, environment={**whole.environment, "ASCEND_OPP_PATH": "/gone/opp"})
    assert found(host, "ASCEND_OPP_PATH").level is Level.ERROR
    assert found(host, "ASCEND_OPP_PATH").text == "names /gone/opp: not there"


def test_a_folder_that_may_not_be_written_is_a_warning(whole: Host) -> None:
    (whole.root / "var/log").mkdir(parents=True)
    host = replace(
        whole,
        environment={**whole.environment, "ASCEND_PROCESS_LOG_PATH": "/var/log/npu"},
        user_id=SOMEBODY,
        group_ids=frozenset({(whole.root / "dev/davinci0").stat().st_gid}),
    )
    (whole.root / "var/log").chmod(0o755)
    assert assert_only(host, "ASCEND_PROCESS_LOG_PATH", Level.WARNING).text == "/var/log/npu may not be written"
