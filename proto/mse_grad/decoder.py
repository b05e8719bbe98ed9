"""Messages to values; operands stay views of the message.

Read here: every field in any order, scalars given twice (the last holds), packed and unpacked shapes, unknown fields
with numbers below 16. Everything else (groups, a submessage given twice, malformed bytes) is left to the generated
code, whose word is final.

The generated code copies every operand. Against it, in us, Python 3.11 on Zen 5: one gradient of 1K float32 elements
3.5 against 5, one of 128K elements 3.6 against 30 to 1400, 64 of 1K elements in one message 185 against 140 to 720; the
wide ranges are what malloc makes of the copies, memory used again or pages fresh from the kernel.
"""

from __future__ import annotations

from mse_grad.generated import (
    parse_stream_request,
    parse_stream_response,
    parse_unary_request,
    parse_unary_response,
)
from mse_grad.messages import (
    Chunk,
    Header,
    Result,
    SharedRange,
    StreamRequest,
    StreamResponse,
    TensorFrame,
    UnaryRequest,
    UnaryResponse,
)
from mse_grad.tensor import Buffer
from mse_grad.wire import (
    Unrecognised,
    check_skippable,
    fields,
    finish_varint,
    packed_varints,
    signed32,
    signed64,
    uint64_bytes,
)

__all__ = ["decode_stream_request", "decode_stream_response", "decode_unary_request", "decode_unary_response"]


# elements = 1 to y_offset = 9, varints.
_SHARED_TAGS = range(0x08, 0x50, 8)


def decode_stream_request(message: bytes) -> StreamRequest:
    """Returns the request in `message`, operands as views of it; raises ContractError MESSAGE_MALFORMED."""
    try:
        return _stream_request(message)
    except (Unrecognised, IndexError, UnicodeDecodeError):
        return parse_stream_request(message)


def decode_stream_response(message: bytes) -> StreamResponse:
    """Returns the response in `message`, gradients as views of it; raises ContractError MESSAGE_MALFORMED."""
    try:
        return _stream_response(message)
    except (Unrecognised, IndexError):
        return parse_stream_response(message)


def decode_unary_request(message: bytes) -> UnaryRequest:
    """Returns the request in `message`, operands as views of it; raises ContractError MESSAGE_MALFORMED."""
    try:
        return _unary_request(message)
    except (Unrecognised, IndexError):
        return parse_unary_request(message)


def decode_unary_response(message: bytes) -> UnaryResponse:
    """Returns the response in `message`, the gradient as a view of it; raises ContractError MESSAGE_MALFORMED."""
    try:
        return _unary_response(message)
    except (Unrecognised, IndexError):
        return parse_unary_response(message)


def _stream_request(message: bytes) -> StreamRequest:
    view = memoryview(message)
    request = StreamRequest()
    for tag, value, stop in fields(message, 0, len(message)):
        if tag == 0x12:
            request.chunks.append(_chunk(message, view, value, stop))
        elif tag == 0x0A:
            request.headers.append(_header(message, value, stop))
        elif tag == 0x1A:
            request.cancel_ids += packed_varints(message, value, stop)
        elif tag == 0x18:
            request.cancel_ids.append(value)
        else:
            check_skippable(tag)
    return request


def _stream_response(message: bytes) -> StreamResponse:
    view = memoryview(message)
    results = []
    others = []
    for tag, value, stop in fields(message, 0, len(message)):
        if tag == 0x12:
            results.append(_result(message, view, value, stop))
        elif tag in (0x0A, 0x1A, 0x22):
            others += [bytes((tag,)), uint64_bytes(stop - value), message[value:stop]]
        else:
            check_skippable(tag)
    # Without the results, a message of the same kind is left, small and rare: the generated code reads it.
    response = parse_stream_response(b"".join(others)) if others else StreamResponse()
    response.results = results
    return response


def _unary_request(message: bytes) -> UnaryRequest:
    view = memoryview(message)
    tensors: dict[int, TensorFrame] = {}
    reduction = numel = 0
    for tag, value, stop in fields(message, 0, len(message)):
        if tag in (0x0A, 0x12, 0x1A):
            if tag in tensors:
                raise Unrecognised
            tensors[tag] = _tensor(message, view, value, stop)
        elif tag == 0x20:
            reduction = signed32(value)
        elif tag == 0x28:
            numel = signed64(value)
        else:
            check_skippable(tag)
    predict, label, dout = (tensors.get(tag) or TensorFrame(0, (), b"") for tag in (0x0A, 0x12, 0x1A))
    return UnaryRequest(predict, label, dout, reduction, numel)


def _unary_response(message: bytes) -> UnaryResponse:
    view = memoryview(message)
    y: TensorFrame | None = None
    fallback = 0
    for tag, value, stop in fields(message, 0, len(message)):
        if tag == 0x0A:
            if y is not None:
                raise Unrecognised
            y = _tensor(message, view, value, stop)
        elif tag == 0x10:
            fallback = value
        else:
            check_skippable(tag)
    return UnaryResponse(y or TensorFrame(0, (), b""), fallback != 0)


def _tensor(message: bytes, view: memoryview, start: int, stop: int) -> TensorFrame:
    dtype = 0
    shape: list[int] = []
    data: Buffer = b""
    for tag, value, value_stop in fields(message, start, stop):
        if tag == 0x08:
            dtype = signed32(value)
        elif tag == 0x12:
            shape += map(signed64, packed_varints(message, value, value_stop))
        elif tag == 0x1A:
            data = view[value:value_stop]
        elif tag == 0x10:
            shape.append(signed64(value))
        else:
            check_skippable(tag)
    return TensorFrame(dtype, tuple(shape), data)


# A message may hold many of the three that follow. They spell out the loop of `fields`, since a generator costs them a
# quarter more (1.15 against 0.92 us a chunk).


def _header(message: bytes, position: int, end: int) -> Header:
    id_ = dtype = reduction = numel = time_left_us = tensors = 0
    shape: list[int] = []
    scalar_dout: bytes | None = None
    request_id = traceparent = ""
    while position < end:
        tag, value = message[position], message[position + 1]
        position += 2
        if value >= 0x80:
            value, position = finish_varint(message, value, position)
        if tag & 7 == 2:
            start = position
            position += value
            if position > end:
                raise Unrecognised
            if tag == 0x1A:
                shape += map(signed64, packed_varints(message, start, position))
            elif tag == 0x2A:
                # A copy, unlike the operands: a header outlives the message that it came with.
                scalar_dout = message[start:position]
            elif tag == 0x42:
                request_id = message[start:position].decode()
            elif tag == 0x4A:
                traceparent = message[start:position].decode()
            else:
                check_skippable(tag)
        elif tag == 0x08:
            id_ = value
        elif tag == 0x10:
            dtype = signed32(value)
        elif tag == 0x20:
            reduction = signed32(value)
        elif tag == 0x30:
            numel = signed64(value)
        elif tag == 0x38:
            time_left_us = signed64(value)
        elif tag == 0x50:
            tensors = signed64(value)
        elif tag == 0x18:
            shape.append(signed64(value))
        else:
            check_skippable(tag)
    if position != end:
        raise Unrecognised
    return Header(
        id_, dtype, tuple(shape), reduction, scalar_dout, numel, time_left_us, request_id, traceparent, tensors
    )


def _chunk(message: bytes, view: memoryview, position: int, end: int) -> Chunk:
    id_ = offset = 0
    predict: Buffer = b""
    label: Buffer = b""
    dout: Buffer = b""
    shared: SharedRange | None = None
    while position < end:
        tag, value = message[position], message[position + 1]
        position += 2
        if value >= 0x80:
            value, position = finish_varint(message, value, position)
        if tag & 7 == 2:
            start = position
            position += value
            if position > end:
                raise Unrecognised
            if tag == 0x1A:
                predict = view[start:position]
            elif tag == 0x22:
                label = view[start:position]
            elif tag == 0x2A:
                dout = view[start:position]
            elif tag == 0x32:
                if shared is not None:
                    raise Unrecognised
                shared = _shared_range(message, start, position)
            else:
                check_skippable(tag)
        elif tag == 0x08:
            id_ = value
        elif tag == 0x10:
            offset = signed64(value)
        else:
            check_skippable(tag)
    if position != end:
        raise Unrecognised
    return Chunk(id_, offset, predict, label, dout, shared)


def _shared_range(message: bytes, position: int, end: int) -> SharedRange:
    # Numbers 1 to 9 alone, all of them varints: at its number, and where nothing else is expected.
    numbers = [0] * 10
    while position < end:
        tag, value = message[position], message[position + 1]
        position += 2
        if value >= 0x80:
            value, position = finish_varint(message, value, position)
        if tag & 7 == 2:
            position += value
            if position > end:
                raise Unrecognised
            check_skippable(tag)
        elif tag in _SHARED_TAGS:
            numbers[tag >> 3] = value
        else:
            check_skippable(tag)
    if position != end:
        raise Unrecognised
    _, elements, predict, predict_at, label, label_at, dout, dout_at, y, y_at = numbers
    return SharedRange(
        signed64(elements),
        predict,
        signed64(predict_at),
        label,
        signed64(label_at),
        dout,
        signed64(dout_at),
        y,
        signed64(y_at),
    )


def _result(message: bytes, view: memoryview, position: int, end: int) -> Result:
    id_ = offset = fallback = 0
    y: Buffer = b""
    while position < end:
        tag, value = message[position], message[position + 1]
        position += 2
        if value >= 0x80:
            value, position = finish_varint(message, value, position)
        if tag & 7 == 2:
            start = position
            position += value
            if position > end:
                raise Unrecognised
            if tag == 0x1A:
                y = view[start:position]
            else:
                check_skippable(tag)
        elif tag == 0x08:
            id_ = value
        elif tag == 0x10:
            offset = signed64(value)
        elif tag == 0x20:
            fallback = value
        else:
            check_skippable(tag)
    if position != end:
        raise Unrecognised
    return Result(id_, offset, y, fallback != 0)
