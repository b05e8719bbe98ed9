"""The build of the operator package, except the steps that need the toolkit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.tools import require_program

ROOT = Path(__file__).parents[2]
PRODUCTS = ["ascend910b", "ascend910_93", "ascend310b"]

# A toolkit that only records the calls of its functions, one line each.
RECORDER = """
foreach(name npu_op_package npu_op_package_add npu_op_code_gen npu_op_library npu_op_kernel_sources
             npu_op_kernel_library)
    function(${name})
        file(APPEND "$ENV{CALLS}" "${CMAKE_CURRENT_FUNCTION};${ARGV}\\n")
    endfunction()
endforeach()
file(APPEND "$ENV{CALLS}" "products;${ASCEND_COMPUTE_UNIT}\\n")
set(ASCEND_AUTOGEN_PATH "${CMAKE_BINARY_DIR}/autogen")
foreach(name aclnn_mse_loss_grad.cpp aclnn_mse_loss_grad_part.cpp op_proto.cc)
    file(WRITE "${ASCEND_AUTOGEN_PATH}/${name}" "")
endforeach()
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The calls of the toolkit's functions, name first, while CMake configures the package."""
    return _calls(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def calls_of_part(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The calls, name first, for a package without the published API."""
    return _calls(tmp_path_factory.mktemp("part"), "-DMSE_LOSS_GRAD_PUBLISHED_API=OFF")


def _calls(scratch: Path, *options: str) -> list[list[str]]:
    modules = scratch / "cann" / "compiler" / "tikcpp" / "ascendc_kernel_cmake"
    modules.mkdir(parents=True)
    (modules / "asc-config.cmake").write_text(RECORDER)
    environment = {"ASCEND_HOME_PATH": str(scratch / "cann"), "CALLS": str(scratch / "calls")}
    run = _configure("op_host", scratch / "build", environment, *options)
    assert run.returncode == 0, run.stderr
    return [line.split(";") for line in (scratch / "calls").read_text().splitlines()]


@pytest.mark.parametrize("folder", ["op_host", "op_host/examples"])
def test_without_the_toolkit_cmake_says_what_is_needed_in_one_sentence(folder: str, tmp_path: Path) -> None:
    run = _configure(folder, tmp_path, {})
    assert run.returncode != 0
    message = " ".join(run.stderr.split("(message):")[1].split("Call Stack")[0].split())
    assert " needs the CANN toolkit " in message
    assert "set_env.sh`" in message
    assert message.rstrip("-").strip().count(". ") == 0


def test_a_folder_without_the_build_functions_is_not_accepted_as_a_toolkit(tmp_path: Path) -> None:
    run = _configure("op_host", tmp_path, {"ASCEND_HOME_PATH": str(tmp_path)})
    assert run.returncode != 0
    assert "The operator package needs the CANN toolkit" in run.stderr


def test_kernels_are_built_for_each_product(calls: list[list[str]]) -> None:
    assert calls[0] == ["products", *PRODUCTS]


def test_functions_are_called_in_the_order_that_the_toolkit_requires(calls: list[list[str]]) -> None:
    assert [call[0] for call in calls[1:]] == [
        "npu_op_package",
        "npu_op_code_gen",
        *["npu_op_library"] * 3,
        "npu_op_package_add",
        *["npu_op_kernel_sources"] * 2,
        "npu_op_kernel_library",
        "npu_op_package_add",
    ]


def test_package_is_the_installable_one_of_vendor_mse_grad(calls: list[list[str]]) -> None:
    assert _call(calls, "npu_op_package")[:3] == ["mse_grad", "TYPE", "RUN"]


def test_every_host_source_is_compiled_into_each_host_library(calls: list[list[str]]) -> None:
    sources = {str(path) for path in (ROOT / "op_host").glob("*.cpp")}
    libraries = {call[2]: set(call[3:]) for call in calls if call[0] == "npu_op_library"}
    assert sources <= set(_call(calls, "npu_op_code_gen"))
    assert sources == libraries["TILING"]
    assert sources == {path for path in libraries["GRAPH"] if not path.endswith("op_proto.cc")}


def test_generated_sources_are_compiled_into_api_and_prototype(calls: list[list[str]]) -> None:
    libraries = {call[2]: {Path(path).name for path in call[3:]} for call in calls if call[0] == "npu_op_library"}
    assert libraries["ACLNN"] == {"aclnn_mse_loss_grad.cpp", "aclnn_mse_loss_grad_part.cpp"}
    assert "op_proto.cc" in libraries["GRAPH"]


def test_each_operator_has_a_kernel_file_with_an_entry_of_its_name(calls: list[list[str]]) -> None:
    kernels = {}
    for call in calls:
        if call[0] == "npu_op_kernel_sources":
            options = dict(zip(call[2::2], call[3::2], strict=True))
            kernels[options["OP_TYPE"]] = options["KERNEL_FILE"]
    assert kernels == {"MseLossGrad": "mse_loss_grad.cpp", "MseLossGradPart": "mse_loss_grad_part.cpp"}
    for file in kernels.values():
        assert f"void {Path(file).stem}(GM_ADDR predict" in (ROOT / "kernel" / file).read_text()


def test_kernel_folder_has_the_kernel_as_it_is_and_nothing_else(calls: list[list[str]]) -> None:
    library = _call(calls, "npu_op_kernel_library")
    folder = Path(library[library.index("SRC_BASE") + 1])
    assert folder.is_absolute()
    shipped = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kernel = {path.name: path.read_bytes() for path in (ROOT / "kernel").glob("mse_loss_grad*.*")}
    assert shipped == kernel


def test_without_the_published_api_the_package_has_no_name_of_the_toolkit(calls_of_part: list[list[str]]) -> None:
    operators = [call[call.index("OP_TYPE") + 1] for call in calls_of_part if call[0] == "npu_op_kernel_sources"]
    assert operators == ["MseLossGradPart"]
    sources = [(ROOT / path).read_text() for path in _call(calls_of_part, "npu_op_code_gen") if path.endswith(".cpp")]
    assert re.findall(r"OP_ADD\((\w+)\)", "".join(sources)) == ["MseLossGradPart"]
    library = _call(calls_of_part, "npu_op_kernel_library")
    folder = Path(library[library.index("SRC_BASE") + 1])
    assert not (folder / "mse_loss_grad.cpp").exists()


def test_package_has_all_libraries(calls: list[list[str]]) -> None:
    added = [name for call in calls if call[0] == "npu_op_package_add" for name in call[call.index("LIBRARY") + 1 :]]
    assert added == ["cust_opapi", "cust_optiling", "cust_op_proto", "ascendc_kernels"]


def _configure(
    folder: str, build: Path, environment: dict[str, str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Runs CMake on `folder` of this repository; only `environment` may name a toolkit."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ASCEND")}
    return subprocess.run(
        [require_program("cmake"), "-S", str(ROOT / folder), "-B", str(build), *options],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _call(calls: list[list[str]], function: str) -> list[str]:
    """Returns the arguments of the only call of `function`."""
    (arguments,) = [call[1:] for call in calls if call[0] == function]
    return arguments
