"""`mse-grad compute`: files in, a file out."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import DTypeLike

from mse_grad.tensor import Array
from mse_grad_cli.commands import mse_grad
from mse_grad_cli.commands.compute import compute
from support.server.server_process import ServerProcess
from support.values import Operands, expected, operands

OPERANDS = operands((3, 7))
MODULE = sys.modules[compute.callback.__module__]  # the command hides its module


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ServerProcess) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSE_GRAD_ADDR", server.address)
    for name, array in zip("pld", OPERANDS, strict=True):
        np.save(f"{name}.npy", array)
    return tmp_path


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(mse_grad, ["compute", *arguments], input=stdin)


def converted(dtype: DTypeLike) -> Operands:
    predict, label, dout = OPERANDS
    return predict.astype(dtype), label.astype(dtype), dout.astype(dtype)


def assert_same(found: Array, wanted: Array) -> None:
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_file_has_the_gradient(reduction: str) -> None:
    result = run("p.npy", "l.npy", "d.npy", "-o", "y.npy", "--reduction", reduction)
    assert (result.exit_code, result.output) == (0, "")
    assert_same(np.load("y.npy"), expected(*OPERANDS, reduction))


@pytest.mark.parametrize("number", ["1.5", "-2", "1e-3"])
def test_dout_may_be_a_number(number: str) -> None:
    result = run("-o", "y.npy", "--", "p.npy", "l.npy", number)
    assert result.exit_code == 0, result.output
    assert_same(np.load("y.npy"), expected(OPERANDS[0], OPERANDS[1], np.array(float(number), np.float32)))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dout", ["d.npy", "1.5"])
def test_many_parts_give_the_bits_of_the_whole(monkeypatch: pytest.MonkeyPatch, reduction: str, dout: str) -> None:
    monkeypatch.setattr(MODULE, "_PART_BYTES", 16)
    assert run("p.npy", "l.npy", dout, "-o", "y.npy", "--reduction", reduction).exit_code == 0
    upstream = OPERANDS[2] if dout == "d.npy" else 1.5
    assert_same(np.load("y.npy"), expected(OPERANDS[0], OPERANDS[1], np.asarray(upstream, np.float32), reduction))


def test_dtype_converts_the_operands() -> None:
    assert run("p.npy", "l.npy", "d.npy", "-o", "y.npy", "--dtype", "float16").exit_code == 0
    assert_same(np.load("y.npy"), expected(*converted(np.float16)))


def test_bfloat16_is_written_as_numpy_writes_it() -> None:
    assert run("p.npy", "l.npy", "d.npy", "-o", "y.npy", "--dtype", "bfloat16").exit_code == 0
    wanted = expected(*converted(ml_dtypes.bfloat16))
    np.save("numpy.npy", wanted)
    assert Path("y.npy").read_bytes() == Path("numpy.npy").read_bytes()


def test_the_order_of_the_files_stays() -> None:
    for name, array in zip("pld", OPERANDS, strict=True):
        np.save(f"{name}.npy", np.asfortranarray(array))
    assert run("p.npy", "l.npy", "d.npy", "-o", "y.npy").exit_code == 0
    y = np.load("y.npy")
    assert y.flags.f_contiguous
    assert_same(np.ascontiguousarray(y), expected(*OPERANDS))


@pytest.mark.parametrize("array", [np.float32(2), np.zeros((0, 3), np.float32)], ids=["rank 0", "no elements"])
def test_one_element_and_none_are_computed(array: Array) -> None:
    np.save("x.npy", array)
    assert run("x.npy", "x.npy", "1", "-o", "y.npy").exit_code == 0
    assert_same(np.load("y.npy"), np.zeros_like(array))


def test_an_operand_may_be_replaced_by_the_gradient() -> None:
    assert run("p.npy", "l.npy", "d.npy", "-o", "p.npy").exit_code == 0
    assert_same(np.load("p.npy"), expected(*OPERANDS))


def test_a_pipe_in_and_a_pipe_out() -> None:
    """As processes: only those have a real stdin and stdout."""
    command = [sys.executable, "-m", "mse_grad_cli.main", "compute", "-", "l.npy", "-"]
    stdin = Path("p.npy").read_bytes() + Path("d.npy").read_bytes()
    ended = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert_same(np.load(io.BytesIO(ended.stdout)), expected(*OPERANDS))


def test_json_describes_the_file() -> None:
    result = run("p.npy", "l.npy", "d.npy", "-o", "y.npy", "--json")
    report = json.loads(result.output)
    assert report.pop("duration_s") > 0
    assert report == {"output": "y.npy", "shape": [3, 7], "dtype": "float32", "reduction": "mean", "bytes": 84}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none.npy l.npy d.npy", "Invalid value for PREDICT: none.npy: No such file or directory"),
        ("p.npy l.npy none.npy", "none.npy: No such file or directory; DOUT is a .npy file or a number"),
        ("p.npy l.npy -1 -o y.npy", "No such option '-1'. Write \"--\" before PREDICT if DOUT is negative: -o"),
        ("p.npy l.npy -.5 -o y.npy", 'Write "--" before PREDICT if DOUT is negative: -o'),
        ("p.npy l.npy 1 --output-file y.npy", "No such option '--output-file'."),
        ("p.npy text d.npy", "Invalid value for LABEL: text is not a .npy file of numbers"),
        (
            "p.npy double.npy d.npy",
            "predict has dtype float32, label has float64; they must be equal; --dtype converts",
        ),
        ("p.npy row.npy 1", "predict has shape [3, 7], label has [7]; they must be equal"),
        ("p.npy l.npy 1 -o gone/y.npy", "the folder of gone/y.npy does not exist"),
        ("p.npy l.npy 1 --json", "name one with -o FILE"),
        ("p.npy l.npy 1 -a nowhere -o y.npy", "address is 'nowhere'; it must be 'host:port'"),
    ],
)
def test_wrong_usage_ends_with_2_and_leaves_no_file(folder: Path, arguments: str, words: str) -> None:
    np.save("double.npy", OPERANDS[1].astype(np.float64))
    np.save("row.npy", OPERANDS[1][0])
    Path("text").write_text("text")
    before = set(folder.iterdir())
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert set(folder.iterdir()) == before


def test_no_server_ends_with_3_and_leaves_no_file(folder: Path) -> None:
    before = set(folder.iterdir())
    result = run("p.npy", "l.npy", "1", "-o", "y.npy", "-a", f"unix:{folder}/nobody", "--wait-s", "0.2")
    assert result.exit_code == 3
    assert set(folder.iterdir()) == before


def test_without_an_address_it_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSE_GRAD_ADDR")
    result = run("p.npy", "l.npy", "1", "-o", "y.npy")
    assert result.exit_code == 2
    assert "MSE_GRAD_ADDR" in result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_output_that_cannot_be_written_ends_with_4() -> None:
    command = [sys.executable, "-m", "mse_grad_cli.main", "compute", "p.npy", "l.npy", "1", "-o", "/dev/full"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 4
    assert "No space left on device" in ended.stderr


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Runs the command with stdout and stderr on a terminal; returns its exit code and what it showed."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "mse_grad_cli.main", "compute", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 2**16):
            shown += part
    except OSError:  # Linux reports the end of the last process on a terminal so
        pass
    finally:
        os.close(parent)
    return process.wait(60), " ".join(shown.decode().split())


def test_on_a_terminal_it_says_that_it_wrote_the_file() -> None:
    code, shown = on_terminal("p.npy", "l.npy", "1", "-o", "y.npy")
    assert code == 0
    assert "y.npy: float32 [3, 7], 84 B in" in shown


def test_a_terminal_gets_no_binary() -> None:
    code, shown = on_terminal("p.npy", "l.npy", "1")
    assert code == 2
    assert "stdout is a terminal: name a file with -o FILE" in shown
