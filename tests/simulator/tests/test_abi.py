"""The libraries show callers the published C interface: prototypes, numbers of enumerations, sizes, names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.npu.device_abi import LaunchTensor
from support.npu.simulator import ROOT
from support.tools import require_program

SOURCE = ROOT / "tests" / "simulator" / "abi" / "abi.cpp"
INCLUDE = ROOT / "tests" / "simulator" / "include"

OPERATOR_API = {
    "aclnnMseLossGrad",
    "aclnnMseLossGradGetWorkspaceSize",
    "aclnnMseLossGradPart",
    "aclnnMseLossGradPartGetWorkspaceSize",
}


def compile_headers(libraries: Path, source: Path) -> subprocess.CompletedProcess[str]:
    command = [require_program("g++"), "-std=c++17", "-fsyntax-only", f"-I{INCLUDE}", f"-I{libraries / 'generated'}"]
    return subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)


def exported(library: Path) -> set[str]:
    run = subprocess.run(
        [require_program("nm"), "--dynamic", "--defined-only", "--format=posix", str(library)],
        capture_output=True,
        text=True,
        check=True,
    )
    symbols = (line.split() for line in run.stdout.splitlines())
    return {name for name, kind, *_ in symbols if kind in "TDB"}


def test_prototypes_enumerations_and_sizes_are_the_published_ones(libraries: Path) -> None:
    run = compile_headers(libraries, SOURCE)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("const aclTensor* out, uint64_t* workspaceSize", "const aclTensor* out, int64_t* workspaceSize"),
        ("int64_t numel, const aclTensor* out", "const aclTensor* out, int64_t numel"),
        ("ACL_BF16 == 27", "ACL_BF16 == 28"),
        ("sizeof(aclDataType) == 4", "sizeof(aclDataType) == 8"),
        ("ACL_EVENT_RECORDED_STATUS_NOT_READY == 0", "ACL_EVENT_RECORDED_STATUS_NOT_READY == 1"),
        ("aclrtStreamWaitEvent), int(void* stream, void* event)", "aclrtStreamWaitEvent), int(void* stream)"),
    ],
)
def test_another_interface_does_not_compile(libraries: Path, tmp_path: Path, find: str, replace: str) -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert find in text
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text(text.replace(find, replace, 1), encoding="utf-8")
    run = compile_headers(libraries, wrong)
    assert run.returncode != 0
    assert "static assertion failed" in run.stderr


def test_the_operator_package_exports_the_operator_api_and_nothing_else(libraries: Path) -> None:
    assert exported(libraries / "libcust_opapi.so") == OPERATOR_API


@pytest.mark.parametrize(("library", "folder"), [("libacl_rt.so", "acl"), ("libnnopbase.so", "aclnn")])
def test_a_library_exports_every_function_that_its_headers_declare(libraries: Path, library: str, folder: str) -> None:
    headers = "".join(path.read_text(encoding="utf-8") for path in (INCLUDE / folder).glob("*.h"))
    declared = set(re.findall(r"^ACL_FUNC_VISIBILITY [\w* ]+?(\w+)\(", headers, re.MULTILINE))
    checked = set(re.findall(r"decltype\((\w+)\)", SOURCE.read_text(encoding="utf-8")))
    assert declared
    assert declared <= exported(libraries / library)
    assert declared <= checked, "abi.cpp holds every prototype against the published one"


def test_the_structure_of_a_launch_has_the_layout_of_c() -> None:
    assert [(name, getattr(LaunchTensor, name).offset) for name in ("name", "address", "bytes")] == [
        ("name", 0),
        ("address", 8),
        ("bytes", 16),
    ]
