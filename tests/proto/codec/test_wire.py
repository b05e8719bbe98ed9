from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.codec.wire import (
    Unrecognised,
    check_skippable,
    enum_bytes,
    fields,
    finish_varint,
    int64_bytes,
    packed_varints,
    signed32,
    signed64,
    uint64_bytes,
)
from mse_grad.v1 import mse_grad_pb2 as pb
from support.wire_messages import varint

BOUNDARIES = [0, 1, 127, 128, 16383, 16384, 2**31, 2**32, 2**35, 2**56, 2**63 - 1, 2**63, 2**64 - 1]


@given(st.integers(1, 2**64 - 1) | st.sampled_from(BOUNDARIES[1:]))
def test_a_uint64_varint_is_that_of_the_generated_code(number: int) -> None:
    assert b"\x08" + uint64_bytes(number) == pb.GradientChunk(id=number).SerializeToString()


def test_zero_is_one_byte() -> None:
    assert uint64_bytes(0) == int64_bytes(0) == enum_bytes(0) == b"\x00"


@given(st.integers(-(2**63), 2**63 - 1).filter(bool))
def test_an_int64_varint_is_that_of_the_generated_code(number: int) -> None:
    assert b"\x10" + int64_bytes(number) == pb.GradientChunk(offset=number).SerializeToString()


@given(st.integers(-(2**31), 2**31 - 1).filter(bool))
def test_an_enum_varint_is_that_of_the_generated_code(number: int) -> None:
    assert b"\x10" + enum_bytes(number) == pb.GradientHeader(dtype=number).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [3, 300, 70_000])
def test_numpy_integers_encode_as_python_ones(number: int) -> None:
    positive: Any = np.int64(number)
    negative: Any = np.int64(-number)
    assert uint64_bytes(positive) == int64_bytes(positive) == varint(number)
    assert int64_bytes(negative) == varint(-number)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_outside_uint64_is_refused_with_the_range(number: int) -> None:
    with pytest.raises(ValueError, match=re.escape("[0, 2^64)")):
        uint64_bytes(number)


@pytest.mark.parametrize("number", [-(2**63) - 1, 2**63])
def test_a_number_outside_int64_is_refused_with_the_range(number: int) -> None:
    with pytest.raises(ValueError, match=re.escape("[-2^63, 2^63)")):
        int64_bytes(number)


@pytest.mark.parametrize("number", [-(2**31) - 1, 2**31])
def test_a_number_outside_an_enum_is_refused_with_the_range(number: int) -> None:
    with pytest.raises(ValueError, match=re.escape("[-2^31, 2^31)")):
        enum_bytes(number)


@given(st.integers(128, 2**64 - 1) | st.sampled_from([n for n in BOUNDARIES if n > 127]), st.binary(max_size=2))
def test_a_varint_is_read_back_and_reading_stops_after_it(number: int, rest: bytes) -> None:
    encoded = varint(number)
    assert finish_varint(encoded + rest, encoded[0], 1) == (number, len(encoded))


@pytest.mark.parametrize(
    "encoded",
    [b"\x80\x00", b"\xff\x80\x00", b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"],
    ids=["over-long zero", "over-long 127", "65 bits", "eleven bytes"],
)
def test_a_varint_that_readers_differ_on_is_not_recognised(encoded: bytes) -> None:
    with pytest.raises(Unrecognised):
        finish_varint(encoded, encoded[0], 1)


def test_a_varint_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        finish_varint(b"\x80\x80", 0x80, 1)


@pytest.mark.parametrize(("number", "low", "whole"), [(1, 1, 1), (2**31, -(2**31), 2**31), (2**64 - 1, -1, -1)])
def test_numbers_fold_into_signed_fields(number: int, low: int, whole: int) -> None:
    assert signed32(number) == low
    assert signed64(number) == whole


def test_fields_names_values_and_ranges() -> None:
    message = b"\x08\x96\x01" + b"\x12\x02ab" + b"\x20\x00"
    assert list(fields(message, 0, len(message))) == [(0x08, 150, 0), (0x12, 5, 7), (0x20, 0, 0)]


@pytest.mark.parametrize("message", [b"\x12\x03ab", b"\x12\x80\x01"], ids=["content", "large content"])
def test_a_length_past_the_end_is_not_recognised(message: bytes) -> None:
    with pytest.raises(Unrecognised):
        list(fields(message, 0, len(message)))


def test_a_field_that_passes_its_submessage_is_not_recognised() -> None:
    message = b"\x08\x96\x01"
    with pytest.raises(Unrecognised):
        list(fields(message, 0, 2))


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_packed_numbers_are_read_back(numbers: list[int]) -> None:
    message = b"\xff" + b"".join(map(varint, numbers)) + b"\xff"
    assert packed_varints(message, 1, len(message) - 1) == numbers


def test_a_packed_number_that_passes_its_field_is_not_recognised() -> None:
    with pytest.raises(Unrecognised):
        packed_varints(b"\x01\x96\x01", 0, 2)


def test_readers_skip_only_varints_and_length_delimited_fields_below_16() -> None:
    skippable = []
    for tag in range(256):
        try:
            check_skippable(tag)
        except Unrecognised:
            continue
        skippable.append(tag)
    assert skippable == sorted([number << 3 for number in range(1, 16)] + [number << 3 | 2 for number in range(1, 16)])
