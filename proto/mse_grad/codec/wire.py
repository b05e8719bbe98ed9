"""Protobuf wire format: writes and reads varints, and iterates over the fields of a message.

Source: https://protobuf.dev/programming-guides/encoding. Thread safety: pure functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache

__all__ = [
    "Unrecognised",
    "check_skippable",
    "enum_bytes",
    "extents",
    "fields",
    "finish_varint",
    "int64_bytes",
    "packed_varints",
    "signed32",
    "signed64",
    "uint64_bytes",
]

# Longest packed field that is read without counting: a thousand of the longest varints. `census` counts longer ones.
_MOST_PACKED_BYTES = 10 * 1024
# Eight extents, the most of an operand, of ten bytes each.
_MOST_SHAPE_BYTES = 80


class Unrecognised(Exception):
    """The message is not as encoders usually write it, or is malformed; the generated code decides which."""


# Cached, because lengths and offsets repeat, and an id is written several times.
@lru_cache(maxsize=4096)
def uint64_bytes(number: int) -> bytes:
    """Returns `number` as a varint; raises ValueError outside [0, 2^64)."""
    if not 0 <= number < 2**64:
        raise ValueError(f"{number} does not fit into a uint64 field; it must be in [0, 2^64)")
    digits = []
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def int64_bytes(number: int) -> bytes:
    """Returns `number` as the varint of an int64 field, ten bytes if negative; raises ValueError outside int64."""
    if 0 <= number < 2**63:
        return uint64_bytes(number)
    if not -(2**63) <= number < 0:
        raise ValueError(f"{number} does not fit into an int64 field; it must be in [-2^63, 2^63)")
    return uint64_bytes(int(number) + 2**64)


def enum_bytes(number: int) -> bytes:
    """Returns `number` as the varint of an enum field; raises ValueError outside int32."""
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"{number} does not fit into an enum field; it must be in [-2^31, 2^31)")
    return int64_bytes(number)


def finish_varint(message: bytes, first: int, position: int) -> tuple[int, int]:
    """Reads the rest of a varint whose first byte is 0x80 or more.

    Args:
        message: Serialized message.
        first: The first byte of the varint.
        position: Index of its second byte.

    Returns:
        The number, as a uint64, and the index after it.

    Raises:
        Unrecognised: The number has more than 64 bits, or more bytes than it needs.
        IndexError: The message ends within the varint.
    """
    byte = message[position]
    number = first - 0x80 + (byte << 7)
    if 0 < byte < 0x80:  # as most lengths, and the ids of a stream
        return number, position + 1
    shift = 7
    while byte >= 0x80:
        shift += 7
        if shift > 63:
            raise Unrecognised
        position += 1
        byte = message[position]
        # The byte before left its continuation bit at `shift`; it is taken back here.
        number += (byte - 1) << shift
    # A last byte of 0 is redundant: no encoder writes it, and readers differ on how many of them they accept.
    if byte == 0 or number >= 2**64:
        raise Unrecognised
    return number, position + 1


def fields(message: bytes, start: int, stop: int, *, most: int = sys.maxsize) -> Iterator[tuple[int, int, int]]:
    """Yields tag, value and 0 of each varint field, and tag, start and stop of each length-delimited one.

    Tags have one byte, as all field numbers of `mse_grad.v1` are below 16. Pass unknown tags to `check_skippable`.

    Args:
        message: Serialized message.
        start: Index of the first field.
        stop: Index after the last field.
        most: Most fields to read.

    Raises:
        Unrecognised: A field has another wire type, or passes `stop`; or there are more than `most`.
        IndexError: The message ends within a field.
    """
    position = start
    for _ in range(most):
        if position >= stop:
            break
        tag, value = message[position], message[position + 1]
        position += 2
        if value >= 0x80:
            value, position = finish_varint(message, value, position)
        if tag & 7 == 2:
            value_start = position
            position += value
            if position > stop:
                raise Unrecognised
            yield tag, value_start, position
        else:
            yield tag, value, 0
    if position != stop:
        raise Unrecognised


def packed_varints(message: bytes, start: int, stop: int) -> list[int]:
    """Returns the uint64 numbers of a packed field.

    Raises:
        Unrecognised: A number is not a usual varint, or passes `stop`; or the field is longer than usual.
        IndexError: The message ends within a number.
    """
    if stop - start > _MOST_PACKED_BYTES:
        raise Unrecognised
    numbers = []
    position = start
    while position < stop:
        number = message[position]
        position += 1
        if number >= 0x80:
            number, position = finish_varint(message, number, position)
        numbers.append(number)
    if position != stop:
        raise Unrecognised
    return numbers


# Cached, because shapes repeat.
@lru_cache(maxsize=1024)
def extents(packed: bytes) -> tuple[int, ...]:
    """Returns the int64 numbers of a packed shape; raises as `packed_varints`, also for more than any operand has."""
    if len(packed) > _MOST_SHAPE_BYTES:
        raise Unrecognised
    return tuple(map(signed64, packed_varints(packed, 0, len(packed))))


def check_skippable(tag: int) -> None:
    """Raises Unrecognised unless `fields` read the field of an unknown tag correctly, so that a reader may skip it.

    That holds for varints and length-delimited fields with a tag of one byte and a number from 1 on. If this byte
    begins a longer tag, or has another wire type, `fields` took the field for something else.
    """
    if not 0x08 <= tag < 0x80 or tag & 7 not in (0, 2):
        raise Unrecognised


def signed64(number: int) -> int:
    """Returns the int64 with the bits of the uint64 `number`."""
    return number if number < 2**63 else number - 2**64


def signed32(number: int) -> int:
    """Returns the int32 with the low bits of the uint64 `number`, as readers of an enum do."""
    number &= 0xFFFFFFFF
    return number if number < 2**31 else number - 2**32
