"""The command line without a server."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from mse_grad_cli import main as cli
from mse_grad_cli.commands import mse_grad

WITHOUT = """
import sys
sys.modules[{module!r}] = None
from mse_grad_cli.main import main
sys.argv = ["mse-grad", "--help"]
main()
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(mse_grad, arguments)


@pytest.mark.parametrize("arguments", [[], ["verify"], ["info"], ["verify", "a:1", "--seed", "-1"], ["compute", "a:1"]])
def test_wrong_usage_ends_with_2_and_says_so(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


@pytest.mark.parametrize("command", ["verify", "info", "bench", "health"])
def test_an_address_of_another_form_ends_with_2_and_names_the_forms(command: str) -> None:
    result = run(command, "localhost")
    assert result.exit_code == 2
    assert "address is 'localhost'; it must be 'host:port'" in result.output


@pytest.mark.parametrize("command", ["verify", "info", "bench"])
def test_no_server_ends_with_3_and_names_the_address(command: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    nobody = f"unix:{tmp_path_factory.mktemp('socket')}/nobody"
    result = run(command, nobody, "--wait-s", "0.2")
    assert result.exit_code == 3
    assert f"no server is ready at {nobody}: DEADLINE_EXCEEDED" in result.output
    assert "Is mse-grad-server running there?" in result.output


@pytest.mark.parametrize(("peer", "way_out"), [("torch", "pip install torch"), ("torch_npu", "mse-grad[npu]")])
def test_a_peer_that_is_not_installed_ends_with_2_and_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, peer: str, way_out: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("verify", "127.0.0.1:1", "--against", peer)
    assert result.exit_code == 2
    assert way_out in result.output


def test_a_host_without_an_npu_cannot_be_compared_with_torch_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    without = SimpleNamespace(npu=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", without)
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace())
    result = run("verify", "127.0.0.1:1", "--against", "torch_npu")
    assert result.exit_code == 2
    assert "torch_npu finds no NPU; mse-grad-server doctor shows why" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["verify", "info", "bench"])
def test_help_names_the_argument_and_every_option(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"{command} [OPTIONS] ADDR" in result.output
    assert "--json" in result.output
    assert "--wait-s" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_prints_the_completion_of_each_shell(shell: str) -> None:
    result = CliRunner().invoke(mse_grad, prog_name="mse-grad", env={"_MSE_GRAD_COMPLETE": f"{shell}_source"})
    assert result.exit_code == 0
    assert f"_MSE_GRAD_COMPLETE={shell}_complete" in result.output


def test_completion_names_the_subcommands() -> None:
    env = {"_MSE_GRAD_COMPLETE": "bash_complete", "COMP_WORDS": "mse-grad ", "COMP_CWORD": "1"}
    result = CliRunner().invoke(mse_grad, prog_name="mse-grad", env=env)
    names = [line.removeprefix("plain,") for line in result.output.split()]
    assert names == ["bench", "compute", "doctor", "health", "info", "verify"]


@pytest.mark.parametrize("module", ["click", "rich"])
def test_without_the_extra_it_names_the_extra(module: str) -> None:
    program = WITHOUT.format(module=module)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert f"needs {module}" in ended.stderr
    assert "pip install 'mse-grad[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    program = WITHOUT.format(module="mse_grad_client.server_info")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "ModuleNotFoundError" in ended.stderr


def test_the_sdk_needs_neither_click_nor_rich() -> None:
    program = "import sys; sys.modules['click'] = sys.modules['rich'] = None; import mse_grad_cli.conformance"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_main_is_the_entry_point() -> None:
    assert cli.__all__ == ["main"]
