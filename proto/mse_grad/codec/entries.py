"""Decoders of the entries that a stream message repeats: headers, chunks and results.

One message may hold a thousand entries. So the readers of each kind write out the loop of `fields` instead of using its
generator: with it, 64 requests of 1K elements in one message took a third longer (624 against 466 us).
"""

from __future__ import annotations

from mse_grad.codec.messages import Chunk, Header, MetadataEntry, Result, SharedRange
from mse_grad.codec.wire import (
    Unrecognised,
    check_skippable,
    extents,
    fields,
    finish_varint,
    signed32,
    signed64,
)
from mse_grad.tensor import Buffer

__all__ = ["read_chunk", "read_header", "read_result"]

# Tags of SharedRange: elements = 1 to y_offset = 9, all of them varints.
_SHARED_TAGS = range(0x08, 0x50, 8)
# Most fields that the fast path reads of one entry: more than each kind has today, even with an unpacked shape. If an
# entry has more, the generated code reads it, after `census` has counted its fields.
_USUAL_FIELDS = 64
_ROUNDS = range(_USUAL_FIELDS)


def read_header(message: bytes, position: int, end: int) -> Header:
    """Returns the `GradientHeader` in `message[position:end]`; raises as `fields`."""
    id_ = dtype = reduction = numel = time_left_us = tensors = 0
    shape: list[int] = []
    scalar_dout: bytes | None = None
    request_id = traceparent = ""
    metadata: tuple[MetadataEntry, ...] = ()
    for _ in _ROUNDS:
        if position >= end:
            break
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
                shape += extents(message[start:position])
            elif tag == 0x2A:
                # A copy, unlike the operands: a header outlives the message that it came with.
                scalar_dout = message[start:position]
            elif tag == 0x42:
                request_id = message[start:position].decode()
            elif tag == 0x4A:
                traceparent = message[start:position].decode()
            elif tag == 0x5A:
                metadata = (*metadata, _metadata_entry(message, start, position))
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
        id_,
        dtype,
        tuple(shape),
        reduction,
        scalar_dout,
        numel,
        time_left_us,
        request_id,
        traceparent,
        tensors,
        metadata,
    )


def _metadata_entry(message: bytes, start: int, stop: int) -> MetadataEntry:
    key = value = ""
    for tag, at, end in fields(message, start, stop, most=_USUAL_FIELDS):
        if tag == 0x0A:
            key = message[at:end].decode()
        elif tag == 0x12:
            value = message[at:end].decode()
        else:
            check_skippable(tag)
    return MetadataEntry(key, value)


def read_chunk(message: bytes, view: memoryview, position: int, end: int) -> Chunk:
    """Returns the `GradientChunk` in `message[position:end]`, operands as slices of `view`; raises as `fields`."""
    id_ = offset = 0
    predict: Buffer = b""
    label: Buffer = b""
    dout: Buffer = b""
    shared: SharedRange | None = None
    for _ in _ROUNDS:
        if position >= end:
            break
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


def _shared_range(message: bytes, start: int, stop: int) -> SharedRange:
    # The message has fields 1 to 9 alone, all of them varints: each number is kept at the index of its field.
    numbers = [0] * 10
    for tag, value, _ in fields(message, start, stop, most=_USUAL_FIELDS):
        if tag in _SHARED_TAGS:
            numbers[tag >> 3] = value
        else:
            check_skippable(tag)
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


def read_result(message: bytes, view: memoryview, position: int, end: int) -> Result:
    """Returns the `GradientResult` in `message[position:end]`, y as a slice of `view`; raises as `fields`."""
    id_ = offset = fallback = 0
    y: Buffer = b""
    for _ in _ROUNDS:
        if position >= end:
            break
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
