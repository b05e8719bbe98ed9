from __future__ import annotations

from pathlib import Path

import pytest

from mse_grad_server.backends.ascend.startup.errors import LibraryNotFound, OpPackageMissing
from mse_grad_server.backends.ascend.startup.libraries import (
    OLDEST_TOOLKIT,
    Libraries,
    find_libraries,
    find_version,
    hash_kernels,
    prefer_package,
)
from mse_grad_server.process.exits import BackendUnavailable, ExitCode

OPAPI = Path("op_api/lib/libcust_opapi.so")


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    home = tmp_path / "toolkit"
    for name in ("lib64/libacl_rt.so", "lib64/libnnopbase.so"):
        write(home / name)
    return home


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def package(opp: Path, vendor: str, *, operator: str = "aclnnMseLossGradPart") -> Path:
    return write(opp / "vendors" / vendor / OPAPI, f"{vendor} has {operator}")


def found(environment: dict[str, str], *, runtime_folder: str = "", op_library: str = "") -> Libraries:
    return find_libraries(runtime_folder=runtime_folder, op_library=op_library, environment=environment)


def test_the_environment_of_the_toolkit_leads_to_everything(toolkit: Path) -> None:
    opapi = package(toolkit / "opp", "customize")
    libraries = found({"ASCEND_HOME_PATH": str(toolkit)})
    lib64 = toolkit / "lib64"
    assert libraries == Libraries(lib64 / "libacl_rt.so", lib64 / "libnnopbase.so", opapi)


@pytest.mark.parametrize("variable", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_the_package_is_looked_for_in_the_toolkit_that_has_the_runtime(toolkit: Path, variable: str) -> None:
    opapi = package(toolkit / "opp", "customize")
    assert found({variable: str(toolkit)}).opapi == opapi


def test_the_package_is_found_in_a_toolkit_that_only_the_loaders_path_names(toolkit: Path) -> None:
    opapi = package(toolkit / "opp", "customize")
    assert found({"LD_LIBRARY_PATH": str(toolkit / "lib64")}).opapi == opapi


def test_a_toolkit_with_a_folder_for_the_architecture_has_its_packages_beside_it(tmp_path: Path) -> None:
    for name in ("libacl_rt.so", "libnnopbase.so"):
        write(tmp_path / "aarch64-linux/lib64" / name)
    opapi = package(tmp_path / "opp", "customize")
    assert found({}, runtime_folder=str(tmp_path / "aarch64-linux/lib64")).opapi == opapi


def test_settings_come_before_the_environment(toolkit: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("libacl_rt.so", "libnnopbase.so", "own.so"):
        write(other / name)
    environment = {"ASCEND_HOME_PATH": str(toolkit), "ASCEND_OPP_PATH": str(toolkit / "opp")}
    package(toolkit / "opp", "customize")
    libraries = found(environment, runtime_folder=str(other), op_library=str(other / "own.so"))
    assert libraries == Libraries(other / "libacl_rt.so", other / "libnnopbase.so", other / "own.so")


def test_the_search_path_of_the_loader_is_searched(toolkit: Path) -> None:
    opapi = package(toolkit / "opp", "customize")
    libraries = found({"LD_LIBRARY_PATH": f"/nowhere::{toolkit / 'lib64'}"}, op_library=str(opapi))
    assert libraries.ascendcl == toolkit / "lib64" / "libacl_rt.so"


def test_the_name_of_the_runtime_before_cann_8_5_is_tried_second(toolkit: Path) -> None:
    opapi = package(toolkit / "opp", "customize")
    older = write(toolkit / "lib64" / "libascendcl.so")
    environment = {"ASCEND_HOME_PATH": str(toolkit)}
    assert found(environment).ascendcl == toolkit / "lib64" / "libacl_rt.so"
    (toolkit / "lib64" / "libacl_rt.so").unlink()
    assert found(environment) == Libraries(older, toolkit / "lib64" / "libnnopbase.so", opapi)


def test_packages_are_preferred_as_the_toolkit_prefers_them(toolkit: Path, tmp_path: Path) -> None:
    opp = toolkit / "opp"
    environment = {"ASCEND_HOME_PATH": str(toolkit), "ASCEND_OPP_PATH": str(opp)}
    package(opp, "aaa")
    listed = package(opp, "zzz")
    write(opp / "vendors" / "config.ini", "load_priority=missing,zzz\n")
    assert found(environment).opapi == listed
    custom = write(tmp_path / "custom" / OPAPI, "aclnnMseLossGradPart")
    assert found({**environment, "ASCEND_CUSTOM_OPP_PATH": f"/nowhere:{tmp_path / 'custom'}"}).opapi == custom


def test_packages_of_other_vendors_are_skipped(toolkit: Path, tmp_path: Path) -> None:
    opp = toolkit / "opp"
    write(opp / "vendors" / "config.ini", "load_priority=other,ours\n")
    other, ours = package(opp, "other", operator="aclnnMseLossGrad"), package(opp, "ours")
    assert found({"ASCEND_HOME_PATH": str(toolkit)}).opapi == ours
    assert found({"ASCEND_HOME_PATH": str(toolkit)}, op_library=str(other)).opapi == other
    ours.unlink()
    with pytest.raises(OpPackageMissing, match=rf"packages of others are in: {other}\)"):
        found({"ASCEND_HOME_PATH": str(toolkit)})


def test_a_vendor_that_no_list_names_is_found_as_well(toolkit: Path) -> None:
    opp = toolkit / "opp"
    write(opp / "vendors" / "config.ini", "load_priority=missing\n")
    opapi = package(opp, "customize")
    assert found({"ASCEND_HOME_PATH": str(toolkit)}).opapi == opapi


def test_a_missing_runtime_says_where_it_looked_and_what_to_do() -> None:
    with pytest.raises(LibraryNotFound, match=r"neither libacl_rt\.so nor libascendcl\.so") as raised:
        found({"ASCEND_HOME_PATH": "/no/toolkit", "LD_LIBRARY_PATH": "/no/libraries"})
    for text in (
        f"CANN toolkit {OLDEST_TOOLKIT} or newer",
        "/no/toolkit/lib64",
        "/no/libraries",
        "set_env.sh",
        "--ascend-runtime-folder",
    ):
        assert text in str(raised.value)
    assert raised.value.exit_code == ExitCode.RUNTIME_LIBRARY


def test_a_toolkit_without_the_operator_api_is_no_toolkit(tmp_path: Path) -> None:
    write(tmp_path / "libacl_rt.so")
    with pytest.raises(LibraryNotFound, match=rf"libnnopbase\.so; .*older than {OLDEST_TOOLKIT}"):
        found({}, runtime_folder=str(tmp_path))


@pytest.mark.parametrize("environment", [{}, {"ASCEND_OPP_PATH": "/no/opp"}])
def test_a_missing_package_says_where_it_looked_and_how_to_install_it(
    toolkit: Path, environment: dict[str, str]
) -> None:
    with pytest.raises(OpPackageMissing) as raised:
        found({"ASCEND_HOME_PATH": str(toolkit), **environment})
    for text in ("custom_opp_", "set_env.bash", "--ascend-op-library"):
        assert text in str(raised.value)
    assert raised.value.exit_code == ExitCode.OP_PACKAGE


def test_a_library_that_a_setting_names_must_be_there(toolkit: Path) -> None:
    with pytest.raises(OpPackageMissing, match=r"/no/library\.so"):
        found({"ASCEND_HOME_PATH": str(toolkit)}, op_library="/no/library.so")


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("version.cfg", "# of the toolkit\nruntime_running_version=[7.3.0.1.231:8.0.RC2]\n", "8.0.RC2"),
        ("opp/version.info", "Version=8.5.0\ntimestamp=20260101\n", "8.5.0"),
        ("runtime/version.info", "version=9.0.0\n", "9.0.0"),
    ],
)
def test_the_version_of_the_toolkit_is_read_from_each_file_that_may_have_it(
    toolkit: Path, name: str, text: str, version: str
) -> None:
    write(toolkit / name, text)
    package(toolkit / "opp", "customize")
    assert find_version(found({"ASCEND_HOME_PATH": str(toolkit)}).ascendcl) == version


def test_a_toolkit_without_a_version_has_version_unknown(toolkit: Path) -> None:
    package(toolkit / "opp", "customize")
    assert find_version(found({"ASCEND_HOME_PATH": str(toolkit)}).ascendcl) == "unknown"


def test_the_hash_is_that_of_the_library_and_of_every_kernel(toolkit: Path) -> None:
    vendor = toolkit / "opp" / "vendors" / "customize"
    package(toolkit / "opp", "customize")
    kernel = write(vendor / "op_impl" / "ai_core" / "tbe" / "kernel" / "MseLossGrad_1.o", "one")
    libraries = found({"ASCEND_HOME_PATH": str(toolkit)})
    first = hash_kernels(libraries)
    assert first == hash_kernels(libraries)
    kernel.write_text("two")
    second = hash_kernels(libraries)
    libraries.opapi.write_text("other")
    assert len({first, second, hash_kernels(libraries)}) == 3


@pytest.mark.parametrize(
    ("before", "others"),
    [(None, ""), ("", ""), ("/a:/b", ":/a:/b"), ("/a:{package}:/b", ":/a:/b"), ("{package}", "")],
)
def test_kernels_are_looked_for_in_the_package_of_the_library_first(
    tmp_path: Path, before: str | None, others: str
) -> None:
    variable = "ASCEND_CUSTOM_OPP_PATH"
    environment = {} if before is None else {variable: before.format(package=tmp_path)}
    prefer_package(tmp_path / OPAPI, environment)
    assert environment == {variable: f"{tmp_path}{others}"}


def test_a_library_outside_a_package_changes_no_environment(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    prefer_package(tmp_path / "libcust_opapi.so", environment)
    assert environment == {}


def test_every_start_error_has_an_exit_code_of_its_own() -> None:
    kinds: list[type[BackendUnavailable]] = [BackendUnavailable, *BackendUnavailable.__subclasses__()]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) > 5
