from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.reasons import ContractError, Reason
from mse_grad.tensor import (
    BFLOAT16,
    DTYPES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Array,
    DType,
    Reduction,
    dtype_of,
    dtype_of_wire,
    elements,
    little_endian_bytes,
)
from mse_grad.v1 import mse_grad_pb2 as pb

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)


def numbers(shape: tuple[int, ...], dtype: DType) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    return np.arange(1, count + 1).astype(dtype.numpy).reshape(shape)


def test_dtype_numbers_are_those_of_the_contract() -> None:
    rejected = {"DATA_TYPE_UNSPECIFIED": 0}
    assert {f"DATA_TYPE_{dtype.name.upper()}": dtype.wire for dtype in DTYPES} | rejected == dict(pb.DataType.items())


def test_reduction_numbers_are_those_of_the_contract() -> None:
    rejected = {"REDUCTION_UNSPECIFIED": 0}
    assert {f"REDUCTION_{reduction.name}": reduction.value for reduction in Reduction} | rejected == dict(
        pb.Reduction.items()
    )


@every_dtype
def test_the_dtype_table_agrees_with_numpy(dtype: DType) -> None:
    assert dtype.numpy.name == dtype.name
    assert dtype.numpy.itemsize == dtype.itemsize_bytes
    assert dtype.numpy.isnative
    assert dtype.compute == (np.float64 if dtype is FLOAT64 else np.float32)


@every_dtype
def test_a_dtype_is_found_by_its_number_and_by_numpys(dtype: DType) -> None:
    assert dtype_of_wire(dtype.wire, field="predict") is dtype
    assert dtype_of(dtype.numpy, field="predict") is dtype
    assert dtype_of(dtype.numpy.newbyteorder(">"), field="predict") is dtype
    assert dtype_of(dtype.numpy.newbyteorder("<"), field="predict") is dtype


@pytest.mark.parametrize(
    "unknown",
    ["int32", "uint8", "bool", "complex64", "longdouble", "object", "S3", "U2", "datetime64[s]", "V4", "f4,f4"],
)
def test_another_numpy_dtype_is_refused_and_the_allowed_ones_named(unknown: str) -> None:
    words = r"label has dtype .*; it must be one of float32, float16, bfloat16, float64"
    with pytest.raises(ContractError, match=words) as caught:
        dtype_of(np.dtype(unknown), field="label")
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_UNKNOWN, "label")


def test_an_eight_bit_float_is_refused() -> None:
    with pytest.raises(ContractError) as caught:
        dtype_of(np.dtype(ml_dtypes.float8_e4m3fn), field="dout")
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_UNKNOWN, "dout")


@pytest.mark.parametrize("number", [0, 5, -1, 2**31 - 1])
def test_another_dtype_number_is_refused_and_the_allowed_ones_named(number: int) -> None:
    with pytest.raises(ContractError, match=f"dout has dtype number {number}; it must be one of 1 to 4") as caught:
        dtype_of_wire(number, field="dout")
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_UNKNOWN, "dout")


@pytest.mark.parametrize("reduction", Reduction, ids=lambda reduction: reduction.text)
def test_a_reduction_is_found_by_its_text_and_its_number(reduction: Reduction) -> None:
    assert Reduction.parse(reduction.text) is reduction
    assert Reduction.of_wire(reduction.value) is reduction


@pytest.mark.parametrize("text", ["", "MEAN", "average", None, 2, 2.0, np.array(["mean", "sum"])], ids=repr)
def test_another_text_is_no_reduction(text: Any) -> None:
    with pytest.raises(ContractError, match="must be 'none', 'mean' or 'sum'") as caught:
        Reduction.parse(text)
    assert (caught.value.reason, caught.value.field) == (Reason.REDUCTION_UNKNOWN, "reduction")


@pytest.mark.parametrize("number", [0, 4, -1])
def test_another_number_is_no_reduction(number: int) -> None:
    with pytest.raises(ContractError, match=f"reduction is {number}; it must be REDUCTION_NONE") as caught:
        Reduction.of_wire(number)
    assert (caught.value.reason, caught.value.field) == (Reason.REDUCTION_UNKNOWN, "reduction")


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (7,), (3, 5), (1, 2, 1, 2, 1, 2, 1, 2)], ids=str)
def test_the_bytes_of_a_c_ordered_array_are_a_view(dtype: DType, shape: tuple[int, ...]) -> None:
    array = numbers(shape, dtype)
    data = little_endian_bytes(array)
    assert (data.format, data.ndim, data.contiguous) == ("B", 1, True)
    assert bytes(data) == array.tobytes()
    assert array.size == 0 or np.shares_memory(np.frombuffer(data, np.uint8), array)


@every_dtype
@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        np.transpose,
        lambda array: array[::-1, ::-1],
        lambda array: array[:, ::2],
        lambda array: array[1:2, 3:],
        lambda array: np.broadcast_to(array[:1], array.shape),
    ],
    ids=["fortran", "transposed", "negative strides", "strided", "part", "broadcast"],
)
def test_the_bytes_of_any_arrangement_are_in_c_order(dtype: DType, arrange: Any) -> None:
    array = arrange(numbers((4, 6), dtype))
    assert bytes(little_endian_bytes(array)) == array.tobytes(order="C")


@every_dtype
def test_a_big_endian_array_gives_little_endian_bytes(dtype: DType) -> None:
    array = numbers((2, 3), dtype)
    swapped = array.astype(dtype.numpy.newbyteorder(">"))
    assert swapped.tobytes() != array.tobytes()
    assert bytes(little_endian_bytes(swapped)) == array.tobytes()


def test_the_bytes_of_a_read_only_array_are_read_only() -> None:
    array = numbers((4,), FLOAT32)
    array.flags.writeable = False
    assert little_endian_bytes(array).readonly


@every_dtype
@given(data=st.data())
def test_elements_reads_back_the_result_of_little_endian_bytes(dtype: DType, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.integers(0, 2 ** (8 * dtype.itemsize_bytes) - 1), max_size=9))
    array = np.array(bits, dtype=f"u{dtype.itemsize_bytes}").view(dtype.numpy)
    back = elements(little_endian_bytes(array), dtype)
    assert back.dtype == dtype.numpy
    assert back.tobytes() == array.tobytes()


def test_elements_is_a_view_at_any_address() -> None:
    data = bytes(3) + numbers((5,), FLOAT32).tobytes()
    view = elements(memoryview(data)[3:], FLOAT32)
    assert np.shares_memory(view, np.frombuffer(data, np.uint8))
    np.testing.assert_array_equal(view, [1, 2, 3, 4, 5])


def test_elements_of_nothing_are_none() -> None:
    assert elements(b"", BFLOAT16).shape == (0,)


def test_elements_refuses_a_part_of_an_element() -> None:
    with pytest.raises(ValueError, match="multiple of element size"):
        elements(b"abc", FLOAT16)


@every_dtype
def test_there_is_one_object_for_each_dtype(dtype: DType) -> None:
    for copied in (pickle.loads(pickle.dumps(dtype)), copy.deepcopy(dtype), copy.copy(dtype)):
        assert copied is dtype
