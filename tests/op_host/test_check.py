"""The rules of the operator, and the messages of its refusals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.reasons import ContractError
from mse_grad.rules import check_dout_shape, check_same_shape
from mse_grad.tensor import Reduction
from support.npu.operator_plan import OperatorHost, Refusal

SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
EXTENTS = st.one_of(st.integers(0, 70_000), st.integers(0, 2**63 - 1))


@pytest.mark.parametrize("reduction", [Reduction.NONE, Reduction.MEAN, Reduction.SUM])
def test_reduction_is_known_by_the_name_of_the_contract(host: OperatorHost, reduction: Reduction) -> None:
    assert host.parse_reduction(reduction.text) is reduction


def test_reduction_is_mean_unless_given(host: OperatorHost) -> None:
    assert host.parse_reduction(None) is Reduction.MEAN


@pytest.mark.parametrize("text", ["", "Mean", "mean ", "means", "max"])
def test_unknown_reduction_is_refused_with_the_known_ones(host: OperatorHost, text: str) -> None:
    with pytest.raises(Refusal, match=f'^reduction is "{text}"; it must be "none", "mean" or "sum"$'):
        host.parse_reduction(text)


@given(shape=st.lists(EXTENTS, max_size=8))
def test_elements_are_the_product_of_the_extents_or_refused_past_64_bits(host: OperatorHost, shape: list[int]) -> None:
    count = math.prod(shape)
    if count < 2**63:
        assert host.count_elements(shape) == count
    else:
        with pytest.raises(Refusal, match=r"more than 2\^63 - 1 elements are not allowed$"):
            host.count_elements(shape)


def test_empty_tensor_is_counted_whatever_its_other_extents(host: OperatorHost) -> None:
    assert host.count_elements([2**62, 2**62, 0]) == 0


def test_rank_9_is_refused(host: OperatorHost) -> None:
    assert host.count_elements([1] * 8) == 1
    with pytest.raises(Refusal, match=r"^predict has 9 dimensions; at most 8 are allowed$"):
        host.count_elements([1] * 9)


@pytest.mark.parametrize("unknown", [-1, -2, -(2**63)])
def test_negative_extent_is_refused(host: OperatorHost, unknown: int) -> None:
    with pytest.raises(Refusal, match=rf"^predict has shape \[2, {unknown}\]; no dimension may be negative$"):
        host.count_elements([2, unknown])


@given(predict=SHAPES, label=SHAPES)
def test_label_is_judged_like_a_request(host: OperatorHost, predict: tuple[int, ...], label: tuple[int, ...]) -> None:
    assert accepts(check_same_shape, predict, label) == accepts(host.check_same_shape, predict, label)


@given(predict=SHAPES, dout=SHAPES)
def test_dout_is_judged_like_a_request(host: OperatorHost, predict: tuple[int, ...], dout: tuple[int, ...]) -> None:
    try:
        expected = check_dout_shape(predict, dout)
    except ContractError:
        with pytest.raises(Refusal):
            host.check_dout_shape(predict, dout)
    else:
        assert host.check_dout_shape(predict, dout) == expected


def test_mismatch_names_both_shapes(host: OperatorHost) -> None:
    with pytest.raises(Refusal, match=r"^predict has shape \[2, 3\], label has \[3, 2\]; they must be equal$"):
        host.check_same_shape([2, 3], [3, 2])
    with pytest.raises(
        Refusal,
        match=r"^predict has shape \[\], dout has \[2\]; "
        "dout must have the shape of predict or one element of rank 0 or 1$",
    ):
        host.check_dout_shape([], [2])


def test_column_against_row_is_refused_not_broadcast(host: OperatorHost) -> None:
    with pytest.raises(Refusal):
        host.check_same_shape([7, 1], [7])
    with pytest.raises(Refusal):
        host.check_dout_shape([7], [7, 1])
    with pytest.raises(Refusal):
        host.check_dout_shape([7], [1, 1])


@pytest.mark.parametrize("other", [(-2,), (-1, -1), (2, -1), (-1, 3)])
def test_extents_that_a_graph_does_not_know_yet_match_everything(host: OperatorHost, other: tuple[int, ...]) -> None:
    host.check_same_shape([2, 3], other)
    host.check_same_shape(other, [2, 3])
    assert host.check_dout_shape([2, 3], other) is False
    with pytest.raises(Refusal):
        host.check_same_shape([2, 3], [4, -1])


def test_one_unknown_extent_may_be_a_scalar_dout(host: OperatorHost) -> None:
    assert host.check_dout_shape([2, 3], [-1]) is True


def accepts(check: object, predict: tuple[int, ...], other: tuple[int, ...]) -> bool:
    assert callable(check)
    try:
        check(predict, other)
    except (Refusal, ContractError):
        return False
    return True
