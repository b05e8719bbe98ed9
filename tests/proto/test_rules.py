from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.reasons import ContractError, Reason
from mse_grad.rules import (
    MAX_RANK,
    check_dout_shape,
    check_numel,
    check_same_dtype,
    check_same_shape,
    check_tensors,
    element_count,
)
from mse_grad.tensor import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, DType, Reduction

Shape = tuple[int, ...]


@pytest.mark.parametrize(
    ("shape", "count"),
    [((), 1), ((0,), 0), ((2, 0), 0), ((1,), 1), ((3, 5), 15), ((2,) * 8, 256), ((0, 2**62, 2**62), 0)],
    ids=str,
)
def test_element_count_is_the_product_of_the_extents(shape: Shape, count: int) -> None:
    assert element_count(shape, FLOAT32, field="predict") == count


def test_rank_8_is_the_highest() -> None:
    assert element_count((1,) * MAX_RANK, FLOAT32, field="predict") == 1
    with pytest.raises(ContractError, match="label has 9 dimensions; at most 8 are allowed") as caught:
        element_count((1,) * 9, FLOAT32, field="label")
    assert (caught.value.reason, caught.value.field) == (Reason.RANK_TOO_HIGH, "label")


@pytest.mark.parametrize("shape", [(-1,), (3, -2), (0, -1), (-(2**63), -1)], ids=str)
def test_a_negative_extent_is_refused_and_the_shape_named(shape: Shape) -> None:
    words = re.escape(f"predict has shape {list(shape)}; no dimension may be negative")
    with pytest.raises(ContractError, match=words) as caught:
        element_count(shape, FLOAT32, field="predict")
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_INVALID, "predict")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_tensor_has_fewer_than_2_to_the_63_bytes(dtype: DType) -> None:
    largest = (2**63 - 1) // dtype.itemsize_bytes
    assert element_count((largest,), dtype, field="dout") == largest
    with pytest.raises(ContractError, match=rf"more than 2\^63 - 1 bytes of {dtype.name}") as caught:
        element_count((largest + 1,), dtype, field="dout")
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_INVALID, "dout")


def test_a_count_does_not_wrap_around_64_bits() -> None:
    with pytest.raises(ContractError) as caught:
        element_count((2**32, 2**32, 4), FLOAT16, field="predict")
    assert caught.value.reason is Reason.SHAPE_INVALID


@given(st.sampled_from(DTYPES), st.sampled_from(DTYPES))
def test_only_equal_dtypes_are_the_same(predict: DType, label: DType) -> None:
    if predict is label:
        check_same_dtype(predict, label, field="label")
        return
    with pytest.raises(ContractError) as caught:
        check_same_dtype(predict, label, field="label")
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_MISMATCH, "label")


def test_a_dtype_mismatch_names_both() -> None:
    with pytest.raises(ContractError, match="predict has dtype bfloat16, dout has float64; they must be equal"):
        check_same_dtype(BFLOAT16, FLOAT64, field="dout")


def test_equal_shapes_are_the_same_in_any_sequence() -> None:
    check_same_shape([2, 3], (2, 3))
    check_same_shape((), [])


@pytest.mark.parametrize(
    ("predict", "label"), [((2, 3), (3, 2)), ((4, 1), (4,)), ((), (1,)), ((1,), ()), ((0,), (0, 1))], ids=str
)
def test_no_shape_is_broadcast_and_both_are_named(predict: Shape, label: Shape) -> None:
    words = re.escape(f"predict has shape {list(predict)}, label has {list(label)}; they must be equal")
    with pytest.raises(ContractError, match=words) as caught:
        check_same_shape(predict, label)
    assert (caught.value.reason, caught.value.field) == (Reason.SHAPE_MISMATCH, "label")


@pytest.mark.parametrize(
    ("predict", "dout", "scalar"),
    [
        ((2, 3), (2, 3), False),
        ((2, 3), (), True),
        ((2, 3), (1,), True),
        ((), (), False),
        ((), (1,), True),
        ((1,), (1,), False),
        ((1,), (), True),
        ((1, 1), (1,), True),
        ((0,), (0,), False),
        ((0,), (1,), True),
    ],
    ids=str,
)
def test_dout_has_the_shape_of_predict_or_is_a_scalar(predict: Shape, dout: Shape, scalar: bool) -> None:
    assert check_dout_shape(predict, list(dout)) is scalar


@pytest.mark.parametrize(
    ("predict", "dout"),
    [((2, 3), (3,)), ((2, 3), (1, 1)), ((4,), (4, 1)), ((4,), (0,)), ((), (1, 1)), ((0,), (2,))],
    ids=str,
)
def test_another_dout_is_refused_and_both_shapes_named(predict: Shape, dout: Shape) -> None:
    words = re.escape(f"predict has shape {list(predict)}, dout has {list(dout)}; dout must have the shape of predict")
    with pytest.raises(ContractError, match=words) as caught:
        check_dout_shape(predict, dout)
    assert (caught.value.reason, caught.value.field) == (Reason.DOUT_SHAPE_MISMATCH, "dout")


@pytest.mark.parametrize("reduction", Reduction, ids=lambda reduction: reduction.text)
def test_without_numel_the_tensor_is_the_whole(reduction: Reduction) -> None:
    assert check_numel(0, 12, reduction) == 12


@pytest.mark.parametrize("numel", [12, 13, 2**62])
def test_mean_takes_the_numel_of_the_whole(numel: int) -> None:
    assert check_numel(numel, 12, Reduction.MEAN) == numel


@pytest.mark.parametrize("numel", [11, 1, -1, -(2**63)])
def test_a_numel_below_the_part_is_refused(numel: int) -> None:
    words = f"numel is {numel}; it must be at least the element count 12"
    with pytest.raises(ContractError, match=words) as caught:
        check_numel(numel, 12, Reduction.MEAN)
    assert (caught.value.reason, caught.value.field) == (Reason.NUMEL_INVALID, "numel")


@pytest.mark.parametrize("reduction", [Reduction.NONE, Reduction.SUM], ids=lambda reduction: reduction.text)
def test_numel_without_mean_is_refused(reduction: Reduction) -> None:
    with pytest.raises(ContractError, match=f"numel is 12 with reduction '{reduction.text}'; only mean") as caught:
        check_numel(12, 12, reduction)
    assert (caught.value.reason, caught.value.field) == (Reason.NUMEL_INVALID, "numel")


@pytest.mark.parametrize(("tensors", "total"), [(0, 12), (1, 12), (5, 60), (2**57, 12 * 2**57)])
def test_tensors_multiply_the_elements_of_one(tensors: int, total: int) -> None:
    assert check_tensors(tensors, 12, FLOAT32) == total


@pytest.mark.parametrize(("tensors", "words"), [(-1, "must not be negative"), (2**58, "more than 2\\^63 - 1 bytes")])
def test_tensors_that_cannot_be_are_refused(tensors: int, words: str) -> None:
    with pytest.raises(ContractError, match=words) as caught:
        check_tensors(tensors, 12, FLOAT32)
    assert (caught.value.reason, caught.value.field) == (Reason.TENSORS_INVALID, "tensors")
