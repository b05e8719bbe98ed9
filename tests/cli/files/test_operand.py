"""Operands from .npy files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, Array
from mse_grad_cli.files.operand import FileOperands, UnusableFile, load

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(path: Path, array: Array) -> str:
    np.save(path, array)
    return str(path)


def loaded(path: str, dtype: object = None) -> Array:
    return load(path, dtype=dtype, stdin=io.BytesIO())  # type: ignore[arg-type]


def test_a_file_is_mapped_not_read(tmp_path: Path) -> None:
    array = loaded(saved(tmp_path / "x.npy", X))
    assert isinstance(array.base, np.memmap)
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, X)


@pytest.mark.parametrize("array", [np.float32(2.5), np.zeros((0, 3), np.float32)], ids=["rank 0", "no elements"])
def test_a_file_of_one_element_or_none_is_read(tmp_path: Path, array: Array) -> None:
    np.testing.assert_array_equal(loaded(saved(tmp_path / "x.npy", np.asarray(array))), array)


def test_the_path_of_a_pipe_is_read_as_shells_give_one_for_the_output_of_a_command() -> None:
    reader, writer = os.pipe()
    content = io.BytesIO()
    np.save(content, X)
    with os.fdopen(writer, "wb") as stream:
        stream.write(content.getvalue())
    with os.fdopen(reader, "rb"):
        np.testing.assert_array_equal(loaded(f"/dev/fd/{reader}"), X)


def test_arrays_follow_each_other_on_stdin() -> None:
    stdin = io.BytesIO()
    np.save(stdin, X)
    np.save(stdin, np.asfortranarray(-X))
    stdin.seek(0)
    np.testing.assert_array_equal(load("-", dtype=None, stdin=stdin), X)
    np.testing.assert_array_equal(load("-", dtype=None, stdin=stdin), -X)
    with pytest.raises(UnusableFile, match="- is not a "):
        load("-", dtype=None, stdin=stdin)


def test_bytes_of_bfloat16_need_the_name_of_the_dtype(tmp_path: Path) -> None:
    x = X.astype(ml_dtypes.bfloat16)
    path = saved(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(loaded(path, BFLOAT16), x)
    for other in (None, FLOAT16):
        with pytest.raises(UnusableFile, match="if they are bfloat16, add --dtype bfloat16"):
            loaded(path, other)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"text\n" * 99])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match="file of numbers"):
        loaded(str(path))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "x.npy", X))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnusableFile, match="file of numbers"):
        loaded(str(path))


@pytest.mark.parametrize("array", [np.array([1j]), np.array(["1"]), np.array([1], "m8[s]"), np.zeros(1, "f4,f4")])
def test_elements_that_are_no_real_numbers_are_refused(tmp_path: Path, array: Array) -> None:
    with pytest.raises(UnusableFile, match="must have real numbers"):
        loaded(saved(tmp_path / "x.npy", array), FLOAT32)


_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"


@pytest.mark.parametrize(
    "header",
    [
        _HEADER % "9223372036854775808",
        _HEADER % ("9" * 400),
        _HEADER % "True",
        _HEADER % "1000000000000000",
        "(" * 5000,
        "-" * 9000 + "1",
    ],
    ids=["2**63", "400 digits", "bool", "a petabyte", "parentheses", "signs"],
)
def test_a_header_that_nobody_wrote_in_good_faith_is_refused(tmp_path: Path, header: str) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(UnusableFile):
        loaded(str(path))
    with pytest.raises(UnusableFile):
        load("-", dtype=None, stdin=io.BytesIO(content))


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(UnusableFile, match="file of numbers"):
        loaded(str(path))


def test_parts_are_converted_to_the_dtype() -> None:
    operands = FileOperands.of(X.astype(np.float64), X.astype(">f4"), X.astype(np.int32), FLOAT16)
    parts = operands.part(2, 5)
    assert {part.dtype for part in parts} == {np.dtype(np.float16)}
    assert [part.tolist() for part in parts] == [[2, 3, 4]] * 3


def test_a_value_out_of_the_range_of_the_dtype_becomes_infinity() -> None:
    predict, _, _ = FileOperands.of(np.array([1e6]), np.array([1.0]), 1.0, FLOAT16).part(0, 1)
    assert predict.tolist() == [np.inf]


def test_parts_of_arrays_in_the_right_dtype_are_views() -> None:
    assert np.shares_memory(FileOperands.of(X, X, X, None).part(1, 3)[0], X)


def test_arrays_in_fortran_order_stay_in_it_without_a_copy() -> None:
    f = np.asfortranarray(X)
    operands = FileOperands.of(f, f, 1.0, None)
    assert operands.is_fortran
    assert operands.part(0, 6)[0].tolist() == X.ravel("F").tolist()
    assert np.shares_memory(operands.predict, f)


def test_mixed_orders_are_brought_into_c_order() -> None:
    operands = FileOperands.of(np.asfortranarray(X), X, np.asfortranarray(X), None)
    assert not operands.is_fortran
    assert [part.tolist() for part in operands.part(0, 6)] == [list(range(6))] * 3


@pytest.mark.parametrize(
    ("label", "dout", "reason"),
    [
        (X.T, 1.0, Reason.SHAPE_MISMATCH),
        (X.astype(np.float64), 1.0, Reason.DTYPE_MISMATCH),
        (X, X.astype(np.float16), Reason.DTYPE_MISMATCH),
        (X, X[0], Reason.DOUT_SHAPE_MISMATCH),
        (X.astype(np.int32), 1.0, Reason.DTYPE_UNKNOWN),
    ],
)
def test_operands_that_do_not_fit_together_break_a_rule(label: Array, dout: Array | float, reason: Reason) -> None:
    with pytest.raises(ContractError) as broken:
        FileOperands.of(X, label, dout, None)
    assert broken.value.reason is reason
