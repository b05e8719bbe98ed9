from __future__ import annotations

import time

import pytest

from mse_grad.codec import decode_stream_request, decode_unary_request
from mse_grad.codec.census import MOST_ENTRIES, MOST_FIELDS, check_fields
from mse_grad.reasons import ContractError, Reason
from mse_grad.rules import check_dout_shape, check_same_shape, shape_text
from mse_grad.v1 import mse_grad_pb2 as pb
from support.wire_messages import length_delimited, varint

MIB = 2**20
# A field that the fast decoder leaves to the generated code: number 100, fixed32.
UNUSUAL = b"\xa5\x06\x00\x00\x00\x00"

STUFFED = {
    "headers": b"\x0a\x00" * (MIB // 2),
    "chunks": b"\x12\x00" * (MIB // 2),
    "unpacked ids": b"\x18\x01" * (MIB // 2),
    "packed ids": length_delimited(3, b"\x01" * MIB),
    "unknown fields": b"\x78\x01" * (MIB // 2),
    "a wide shape": length_delimited(1, length_delimited(3, b"\x01" * MIB)),
    "a shape unpacked": length_delimited(1, b"\x18\x01" * (MIB // 2)),
    "a header of fields": length_delimited(1, b"\x08\x01" * (MIB // 2)),
    "a chunk of fields": length_delimited(2, b"\x10\x01" * (MIB // 2)),
    "a shared range of fields": length_delimited(2, length_delimited(6, b"\x08\x01" * (MIB // 2))),
}


@pytest.mark.parametrize("lead", [b"", UNUSUAL], ids=["usual", "for the generated code"])
@pytest.mark.parametrize("stuffed", STUFFED.values(), ids=STUFFED.keys())
def test_a_message_of_ever_so_many_fields_is_refused_before_they_are_read(stuffed: bytes, lead: bytes) -> None:
    began_s = time.process_time()
    with pytest.raises(ContractError) as caught:
        decode_stream_request(lead + stuffed)
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE
    # Two hundred times the time that it takes; reading all fields takes ten times as long.
    assert time.process_time() - began_s < 5
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("lead", [b"", UNUSUAL], ids=["usual", "for the generated code"])
@pytest.mark.parametrize(
    "stuffed",
    [
        length_delimited(1, length_delimited(2, b"\x01" * MIB)),
        length_delimited(3, b"\x10\x01" * (MIB // 2)),
        b"\x78\x01" * (MIB // 2),
    ],
    ids=["a wide shape", "a shape unpacked", "unknown fields"],
)
def test_so_is_one_of_the_unary_method(stuffed: bytes, lead: bytes) -> None:
    with pytest.raises(ContractError) as caught:
        decode_unary_request(lead + stuffed)
    assert caught.value.reason is Reason.MESSAGE_TOO_LARGE


@pytest.mark.parametrize("lead", [b"", UNUSUAL], ids=["usual", "for the generated code"])
@pytest.mark.parametrize("field", ["headers", "chunks"])
def test_as_many_headers_and_chunks_as_are_allowed_are_read_and_not_one_more(field: str, lead: bytes) -> None:
    part = b"\x0a\x00" if field == "headers" else b"\x12\x00"
    assert len(getattr(decode_stream_request(lead + part * MOST_ENTRIES), field)) == MOST_ENTRIES
    with pytest.raises(ContractError) as caught:
        decode_stream_request(lead + part * (MOST_ENTRIES + 1))
    assert (caught.value.reason, caught.value.field) == (Reason.MESSAGE_TOO_LARGE, field)


def test_operands_count_as_one_field_however_long() -> None:
    chunk = pb.GradientChunk(id=1, predict=bytes(MIB), label=bytes(MIB), dout=bytes(MIB))
    check_fields(pb.StreamGradientsRequest(chunks=[chunk]).SerializeToString(), pb.StreamGradientsRequest.DESCRIPTOR)


@pytest.mark.parametrize("broken", [b"\x12\x05\x08", b"\x12", b"\xff" * 20, b"\x0f\x00", b"\x0d\x00"], ids=repr)
def test_malformed_bytes_are_left_to_the_reader(broken: bytes) -> None:
    check_fields(broken, pb.StreamGradientsRequest.DESCRIPTOR)


def test_fields_before_malformed_bytes_count() -> None:
    with pytest.raises(ContractError):
        check_fields(b"\x18\x01" * (MOST_FIELDS + 1) + b"\x07", pb.StreamGradientsRequest.DESCRIPTOR)


def test_a_long_varint_is_one_number() -> None:
    packed = varint(2**63) * MOST_FIELDS
    with pytest.raises(ContractError):
        check_fields(length_delimited(3, packed), pb.StreamGradientsRequest.DESCRIPTOR)
    check_fields(length_delimited(3, packed[:-10]), pb.StreamGradientsRequest.DESCRIPTOR)


def test_errors_quote_only_the_first_dimensions_of_a_shape() -> None:
    wide = (7,) * 30_000
    for check in (check_same_shape, check_dout_shape):
        with pytest.raises(ContractError) as caught:
            check((2, 3), wide)
        assert "[7, 7, 7, 7, 7, 7, 7, 7, ...] of 30000 dimensions" in str(caught.value)
        assert len(str(caught.value)) < 250
    assert shape_text((2, 3)) == "[2, 3]"
