from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mse_grad.codec import (
    Chunk,
    Header,
    decode_stream_request,
    decode_stream_response,
    decode_unary_request,
    decode_unary_response,
)
from mse_grad.reasons import ContractError, Reason
from mse_grad.v1 import mse_grad_pb2 as pb
from support.wire_messages import (
    broken,
    length_delimited,
    plain,
    stream_requests,
    stream_responses,
    tag_of,
    unary_requests,
    unary_responses,
    varint,
)

# Messages in messages take hypothesis a while on a machine that does other work too.
patiently = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)

Decode = Callable[[bytes], Any]

KINDS: list[tuple[Decode, type[Message]]] = [
    (decode_stream_request, pb.StreamGradientsRequest),
    (decode_stream_response, pb.StreamGradientsResponse),
    (decode_unary_request, pb.ComputeGradientRequest),
    (decode_unary_response, pb.ComputeGradientResponse),
]
MESSAGES = {
    pb.StreamGradientsRequest: stream_requests,
    pb.StreamGradientsResponse: stream_responses,
    pb.ComputeGradientRequest: unary_requests,
    pb.ComputeGradientResponse: unary_responses,
}
every_kind = pytest.mark.parametrize(("decode", "kind"), KINDS, ids=[kind.DESCRIPTOR.name for _, kind in KINDS])

VALID = {
    pb.StreamGradientsRequest: pb.StreamGradientsRequest(
        headers=[
            pb.GradientHeader(
                id=300,
                dtype=pb.DATA_TYPE_BFLOAT16,
                shape=[3, 70_000],
                reduction=pb.REDUCTION_MEAN,
                scalar_dout=b"ab",
                numel=-1,
                time_left_us=1_000_000,
                request_id="größer",
                traceparent="00-a-b-01",
                tensors=300,
                metadata=[pb.MetadataEntry(key="user", value="größer"), pb.MetadataEntry()],
            )
        ],
        chunks=[
            pb.GradientChunk(id=300, offset=2**40, predict=bytes(200), label=b"l", dout=b"d"),
            pb.GradientChunk(id=301, shared=pb.SharedRange(elements=300, predict_segment=1, y_segment=2, y_offset=-1)),
        ],
        cancel_ids=[1, 2**64 - 1],
    ),
    pb.StreamGradientsResponse: pb.StreamGradientsResponse(
        opened=pb.StreamOpened(instance_id="run", limits=pb.Limits(window_chunks=4, chunk_bytes=2**19)),
        results=[pb.GradientResult(id=5, offset=9, y=b"abcd", fallback=True)],
        errors=[pb.GradientError(id=6)],
        go_away=pb.GoAway(last_id=5),
    ),
    pb.ComputeGradientRequest: pb.ComputeGradientRequest(
        predict=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[1, 300], data=bytes(1200)),
        label=pb.Tensor(data=b"l"),
        dout=pb.Tensor(shape=[-1]),
        reduction=pb.REDUCTION_SUM,
        numel=2**62,
    ),
    pb.ComputeGradientResponse: pb.ComputeGradientResponse(
        y=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT64, shape=[2], data=bytes(16)), fallback=True
    ),
}


def outcome(decode: Decode, message: bytes) -> Any:
    try:
        return plain(decode(message))
    except ContractError as error:
        return error.reason, error.field


def generated_outcome(kind: type[Message], message: bytes) -> Any:
    try:
        return plain(kind.FromString(message))
    except DecodeError:
        return Reason.MESSAGE_MALFORMED, "message"


@every_kind
@patiently
@given(data=st.data())
def test_usual_messages_decode_as_the_generated_code_says(decode: Decode, kind: Any, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind](wild=False))
    assert plain(decode(message)) == plain(kind.FromString(message))


@every_kind
@patiently
@given(data=st.data())
def test_unusual_messages_decode_as_the_generated_code_says(decode: Decode, kind: Any, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind](wild=True))
    assert outcome(decode, message) == generated_outcome(kind, message)


@every_kind
@patiently
@given(data=st.data())
def test_broken_messages_are_taken_or_refused_as_by_the_generated_code(
    decode: Decode, kind: Any, data: st.DataObject
) -> None:
    message = data.draw(broken(MESSAGES[kind](wild=data.draw(st.booleans()))))
    assert outcome(decode, message) == generated_outcome(kind, message)


@every_kind
def test_every_cut_of_a_message_is_taken_or_refused_as_by_the_generated_code(decode: Decode, kind: Any) -> None:
    message = VALID[kind].SerializeToString()
    outcomes = [outcome(decode, message[:stop]) for stop in range(len(message) + 1)]
    assert outcomes == [generated_outcome(kind, message[:stop]) for stop in range(len(message) + 1)]
    assert (Reason.MESSAGE_MALFORMED, "message") in outcomes


@every_kind
def test_every_byte_changed_is_taken_or_refused_as_by_the_generated_code(decode: Decode, kind: Any) -> None:
    message = VALID[kind].SerializeToString()
    for position in range(len(message)):
        for value in (0x00, 0x01, 0x07, 0x0B, 0x7F, 0x80, 0xFF):
            changed = message[:position] + bytes((value,)) + message[position + 1 :]
            assert outcome(decode, changed) == generated_outcome(kind, changed), changed


@every_kind
def test_bytes_that_are_not_protobuf_are_malformed_and_the_error_names_the_type(decode: Decode, kind: Any) -> None:
    with pytest.raises(ContractError, match=kind.DESCRIPTOR.full_name) as caught:
        decode(b"\xff not protobuf")
    assert caught.value.reason is Reason.MESSAGE_MALFORMED
    assert caught.value.field == "message"
    assert isinstance(caught.value.__cause__, DecodeError)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        # A submessage of two bytes, an id whose varint goes on in the byte after it: which is a tag, too.
        (decode_stream_request, b"\x0a\x02\x08\x88" + b"\x0a\x00"),
        (decode_stream_request, b"\x12\x02\x08\x88" + b"\x0a\x00"),
        (decode_stream_response, b"\x12\x02\x08\x88" + b"\x12\x00"),
        (decode_unary_request, b"\x0a\x02\x08\x88" + b"\x12\x00"),
        (decode_unary_response, b"\x0a\x02\x08\x88" + b"\x10\x00"),
        (decode_stream_request, b"\x0a\x03\x1a\x01\x88" + b"\x0a\x00"),
        (decode_stream_request, b"\x1a\x01\x88" + b"\x0a\x00"),
        (decode_unary_request, b"\x0a\x03\x12\x01\x88" + b"\x12\x00"),
    ],
    ids=["header", "chunk", "result", "operand", "gradient", "extents", "cancel ids", "operand's extents"],
)
def test_a_varint_that_leaves_its_submessage_is_malformed(decode: Decode, message: bytes) -> None:
    assert outcome(decode, message) == (Reason.MESSAGE_MALFORMED, "message")


@every_kind
def test_an_empty_message_is_a_message_of_defaults(decode: Decode, kind: Any) -> None:
    assert plain(decode(b"")) == plain(kind())


@patiently
@given(stream_requests(wild=False))
def test_operands_of_a_stream_request_are_views_of_the_message(message: bytes) -> None:
    for chunk in decode_stream_request(message).chunks:
        for operand in (chunk.predict, chunk.label, chunk.dout):
            assert is_view_or_absent(operand, message)


@patiently
@given(stream_responses(wild=False))
def test_gradients_of_a_stream_response_are_views_of_the_message(message: bytes) -> None:
    for result in decode_stream_response(message).results:
        assert is_view_or_absent(result.y, message)


@patiently
@given(unary_requests(wild=False))
def test_operands_of_a_unary_request_are_views_of_the_message(message: bytes) -> None:
    request = decode_unary_request(message)
    for tensor in (request.predict, request.label, request.dout):
        assert is_view_or_absent(tensor.data, message)


@patiently
@given(unary_responses(wild=False))
def test_the_gradient_of_a_unary_response_is_a_view_of_the_message(message: bytes) -> None:
    assert is_view_or_absent(decode_unary_response(message).y.data, message)


def is_view_or_absent(operand: Any, message: bytes) -> bool:
    return operand == b"" or (isinstance(operand, memoryview) and operand.obj is message)


def test_a_view_cannot_change_the_message() -> None:
    message = VALID[pb.StreamGradientsRequest].SerializeToString()
    predict = decode_stream_request(message).chunks[0].predict
    assert isinstance(predict, memoryview)
    assert predict.readonly


def test_a_scalar_dout_is_a_copy_that_does_not_hold_the_message() -> None:
    message = VALID[pb.StreamGradientsRequest].SerializeToString()
    assert type(decode_stream_request(message).headers[0].scalar_dout) is bytes


def header_of(*encoded: bytes) -> Header:
    return decode_stream_request(length_delimited(1, b"".join(encoded))).headers[0]


def test_the_last_of_a_repeated_scalar_holds() -> None:
    assert header_of(b"\x08\x01", b"\x08\x02", b"\x42\x01a", b"\x42\x01b").id == 2
    assert header_of(b"\x42\x01a", b"\x42\x01b").request_id == "b"


def test_packed_and_unpacked_extents_join_in_the_order_they_came() -> None:
    assert header_of(b"\x18\x02", b"\x1a\x02\x03\x04", b"\x18\x05", b"\x1a\x00").shape == (2, 3, 4, 5)


def test_extents_and_counts_may_be_negative() -> None:
    header = header_of(b"\x1a\x0a" + varint(-1), b"\x18" + varint(-2), b"\x30" + varint(-3), b"\x38" + varint(-4))
    assert (header.shape, header.numel, header.time_left_us) == ((-1, -2), -3, -4)


def test_ids_are_unsigned() -> None:
    message = length_delimited(2, b"\x08" + varint(2**64 - 1)) + length_delimited(3, varint(2**64 - 1))
    request = decode_stream_request(message)
    assert (request.chunks[0].id, request.cancel_ids) == (2**64 - 1, [2**64 - 1])


def test_enums_keep_their_low_32_bits() -> None:
    header = header_of(b"\x10" + varint(2**32 + 1), b"\x20" + varint(-1))
    assert (header.dtype, header.reduction) == (1, -1)


def test_a_bool_is_any_varint_but_zero() -> None:
    results = [length_delimited(2, b"\x20" + encoded) for encoded in (b"\x00", b"\x02", varint(2**63))]
    assert [result.fallback for result in decode_stream_response(b"".join(results)).results] == [False, True, True]


def test_a_scalar_dout_that_was_not_set_differs_from_an_empty_one() -> None:
    assert header_of(b"\x2a\x00").scalar_dout == b""
    assert header_of(b"\x08\x01").scalar_dout is None


def test_over_long_varints_are_taken() -> None:
    assert header_of(b"\x08" + varint(5, width=10), b"\x18" + varint(7, width=3)).id == 5


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80"], ids=["stray", "over-long", "surrogate"])
@pytest.mark.parametrize("field", [8, 9])
def test_a_string_that_is_not_utf8_is_malformed(text: bytes, field: int) -> None:
    with pytest.raises(ContractError) as caught:
        header_of(length_delimited(field, text))
    assert caught.value.reason is Reason.MESSAGE_MALFORMED


def test_an_unknown_field_leaves_the_operands_views() -> None:
    chunk = length_delimited(15, b"later") + b"\x70\x07" + length_delimited(3, b"predict") + length_delimited(14, b"")
    message = length_delimited(15, b"later") + length_delimited(2, chunk) + b"\x70" + varint(2**40)
    decoded = decode_stream_request(message)
    assert decoded.chunks == [Chunk(0, 0, b"predict", b"")]
    assert is_view_or_absent(decoded.chunks[0].predict, message)


def test_an_operand_given_twice_is_merged() -> None:
    first = b"\x08\x01" + b"\x12\x01\x02" + length_delimited(3, b"first")
    second = b"\x10\x03" + length_delimited(3, b"second")
    decoded = decode_unary_request(length_delimited(1, first) + length_delimited(1, second))
    assert plain(decoded.predict) == {"dtype": 1, "shape": [2, 3], "data": b"second"}


def test_a_gradient_given_twice_is_merged() -> None:
    message = length_delimited(1, b"\x08\x01") + length_delimited(1, b"\x12\x01\x02")
    assert plain(decode_unary_response(message).y) == {"dtype": 1, "shape": [2], "data": b""}


def test_opened_and_go_away_given_twice_are_merged_around_results() -> None:
    result = length_delimited(2, b"\x08\x05" + length_delimited(3, b"y"))
    opened = pb.StreamGradientsResponse(opened=pb.StreamOpened(instance_id="a")).SerializeToString()
    again = pb.StreamGradientsResponse(opened=pb.StreamOpened(limits=pb.Limits(chunk_bytes=7))).SerializeToString()
    message = opened + result + again
    decoded = decode_stream_response(message)
    assert decoded.opened == pb.StreamOpened(instance_id="a", limits=pb.Limits(chunk_bytes=7))
    assert is_view_or_absent(decoded.results[0].y, message)
    assert decoded.go_away is None


def test_a_response_shows_which_fields_are_not_set() -> None:
    decoded = decode_stream_response(length_delimited(2, b""))
    assert (decoded.opened, decoded.errors, decoded.go_away) == (None, [], None)


def test_groups_are_skipped() -> None:
    group = tag_of(12, 3) + b"\x08\x01" + tag_of(12, 4)
    assert header_of(group, b"\x08\x07", group).id == 7
    message = group + length_delimited(2, group + b"\x08\x09")
    assert decode_stream_response(message).results[0].id == 9


@pytest.mark.parametrize("depth", [90, 97, 98, 99, 100, 101, 102])
def test_nesting_is_bounded_as_in_the_generated_code(depth: int) -> None:
    groups = tag_of(12, 3) * depth + tag_of(12, 4) * depth
    for message in (groups, length_delimited(2, groups), length_delimited(3, length_delimited(2, groups))):
        for decode, kind in KINDS[:2]:
            assert outcome(decode, message) == generated_outcome(kind, message)
