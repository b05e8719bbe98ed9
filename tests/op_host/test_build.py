"""The form of Huawei's operator projects: build.sh, CMakePresets.json, the operators' JSON, docs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.npu.simulator import ROOT, require_simulator
from support.npu.toolkit import executable, lay_out
from support.tools import require_program

OP_HOST = ROOT / "op_host"
DEFINITION = "".join(path.read_text(encoding="utf-8") for path in sorted(OP_HOST.glob("*_def.cpp")))
OPERATORS = ("MseLossGrad", "MseLossGradPart")

# Installs into the given folder, or into the toolkit.
INSTALLER = """#!/bin/sh -e
folder=$ASCEND_OPP_PATH
case ${{1:-}} in --install-path=*) folder=${{1#--install-path=}} ;; esac
mkdir -p "$folder/vendors/mse_grad/op_api"
ln -s {libraries} "$folder/vendors/mse_grad/op_api/lib"
ln -s {libraries}/generated "$folder/vendors/mse_grad/op_api/include"
"""


class Project:
    """A copy of op_host/ and kernel/, and a host whose toolkit builds the simulator's package."""

    def __init__(self, folder: Path) -> None:
        libraries = require_simulator()
        for room in ("op_host", "kernel"):
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("build_out"))
        toolkit = lay_out(folder / "cann")
        (toolkit / "include").symlink_to(ROOT / "tests" / "simulator" / "include")
        (toolkit / "lib64").symlink_to(libraries)
        executable(folder / "installer", INSTALLER.format(libraries=libraries))
        self.folder = folder / "op_host"
        self.private = folder / "private"
        self.build = self.folder / "build_out"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ASCEND")},
            "ASCEND_HOME_PATH": str(toolkit),
            "ASCEND_OPP_PATH": str(folder / "cann" / "opp"),
            "INSTALLER": str(folder / "installer"),
        }

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in op_host/."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def cached(self, variable: str) -> str:
        """Returns a variable of the build's cache."""
        found = re.search(rf"^{variable}:\w+=(.*)$", (self.build / "CMakeCache.txt").read_text(), re.MULTILINE)
        assert found is not None
        return found[1]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    require_program("cmake")
    require_program("bash")
    return Project(tmp_path)


@pytest.mark.parametrize("private", [False, True], ids=["into the toolkit", "into a folder of its own"])
def test_the_commands_of_an_operator_project_build_install_and_run(project: Project, private: bool) -> None:
    built = project.run("bash", "build.sh", "--pkg", "--soc=ascend910b")
    assert built.returncode == 0, built.stdout + built.stderr
    assert project.cached("ASCEND_COMPUTE_UNIT") == "ascend910b"
    where = [f"--install-path={project.private}"] if private else []
    assert project.run("./build_out/custom_opp_linux.run", *where).returncode == 0
    named = {"ASCEND_CUSTOM_OPP_PATH": f"/nowhere:{project.private}/vendors/mse_grad"} if private else {}
    run = project.run("bash", "build.sh", "--run_example", "mse_loss_grad", "eager", "cust", **named)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "16384 of 16384 gradients equal the formula" in run.stdout


def test_without_arguments_the_package_has_every_product_and_both_operators(project: Project) -> None:
    assert project.run("bash", "build.sh").returncode == 0
    assert (project.build / "custom_opp_linux.run").is_file()
    assert project.cached("ASCEND_COMPUTE_UNIT") == "ascend910b;ascend910_93;ascend310b"
    assert project.cached("MSE_LOSS_GRAD_PUBLISHED_API") == "ON"


def test_several_products_one_operator_and_a_vendor_can_be_named(project: Project) -> None:
    options = ("--soc=ascend910b,ascend310b", "--ops=mse_loss_grad_part", "--vendor_name=ours", "-j1")
    assert project.run("bash", "build.sh", "--pkg", *options).returncode == 0
    assert project.cached("ASCEND_COMPUTE_UNIT") == "ascend910b;ascend310b"
    assert project.cached("MSE_LOSS_GRAD_PUBLISHED_API") == "OFF"
    assert project.cached("vendor_name") == "ours"


@pytest.mark.parametrize("wrong", ["--fast", "--ops=mse_loss", "eager"])
def test_an_unknown_argument_is_refused_with_the_known_ones(project: Project, wrong: str) -> None:
    run = project.run("bash", "build.sh", wrong)
    assert run.returncode == 2
    assert wrong.removeprefix("--ops=") in run.stderr
    assert "bash build.sh --run_example" in run.stderr
    assert not project.build.exists()


def test_the_preset_is_the_build_without_arguments(project: Project) -> None:
    variables = ("ASCEND_COMPUTE_UNIT", "MSE_LOSS_GRAD_PUBLISHED_API", "vendor_name")
    assert project.run("cmake", "--preset", "default").returncode == 0
    preset = [project.cached(variable) for variable in variables]
    shutil.rmtree(project.build)
    assert project.run("bash", "build.sh").returncode == 0
    assert [project.cached(variable) for variable in variables] == preset


def test_the_json_describes_the_operators_as_the_definition_does() -> None:
    operators = json.loads((OP_HOST / "mse_loss_grad.json").read_text(encoding="utf-8"))
    assert tuple(operator["op"] for operator in operators) == OPERATORS
    for operator in operators:
        assert [tensor["name"] for tensor in operator["input_desc"]] == ["predict", "label", "dout"]
        assert [tensor["name"] for tensor in operator["output_desc"]] == ["y"]
        for tensor in (*operator["input_desc"], *operator["output_desc"]):
            assert tensor["type"] == ["float", "float16", "bfloat16"]
            assert tensor["format"] == ["ND"] * 3
    attributes = [[attribute["name"] for attribute in operator["attr"]] for operator in operators]
    assert attributes == [["reduction"], ["reduction", "numel"]]
    assert re.findall(r'Attr\("(\w+)"\)', DEFINITION) == ["reduction", "numel"]


def document(operator: str) -> str:
    return (OP_HOST / "docs" / f"aclnn{operator}.md").read_text(encoding="utf-8")


def code_of(operator: str) -> list[str]:
    return re.findall(r"```cpp\n(.*?)```", document(operator), re.DOTALL)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_document_has_the_prototypes_that_the_toolkit_generates(operator: str) -> None:
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", operator).lower()
    header = (require_simulator() / "generated" / f"aclnn_{name}.h").read_text(encoding="utf-8")
    generated = re.findall(
        r"aclnnStatus\s+aclnn\w+\(.*?\);", re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL), re.DOTALL
    )
    documented = re.findall(r"aclnnStatus\s+aclnn\w+\(.*?\);", code_of(operator)[0], re.DOTALL)

    def plain(prototypes: list[str]) -> list[str]:
        return [re.sub(r"\W+", " ", prototype.replace("*", " pointer ")) for prototype in prototypes]

    assert plain(documented) == plain(generated)
    assert len(documented) == 2


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_call_example_of_the_document_compiles(operator: str, tmp_path: Path) -> None:
    source = tmp_path / "example.cpp"
    source.write_text(code_of(operator)[1], encoding="utf-8")
    includes = [ROOT / "tests" / "simulator" / "include", require_simulator() / "generated"]
    command = [require_program("c++"), "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    run = subprocess.run([*command, *(f"-I{folder}" for folder in includes), source], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_document_names_the_products_of_the_definition(operator: str) -> None:
    products = re.findall(r'AddConfig\("(\w+)"\)', DEFINITION)
    supported = re.findall(r"\((\w+)\) \| yes", document(operator))
    assert sorted(supported) == sorted(products)
