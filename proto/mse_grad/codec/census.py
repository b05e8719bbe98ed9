"""Bounds on the number of fields in a request, checked before the generated code makes objects of them.

A field of two bytes becomes an object of a hundred: without a bound, 16 MiB of fields cost gigabytes and many seconds.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from mse_grad.reasons import ContractError, Reason

__all__ = ["MOST_ENTRIES", "MOST_FIELDS", "check_entries", "check_fields"]

MOST_ENTRIES = 1024
"""Most headers, and most chunks, in one message."""
MOST_FIELDS = 32 * MOST_ENTRIES
"""Most fields in one message, including those of its submessages and the numbers of packed fields."""

# The bytes of varints that another byte follows. The last byte of a varint is below 0x80.
_CONTINUED = bytes(range(0x80, 0x100))
_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_PACKABLE = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
    FieldDescriptor.CPPTYPE_BOOL,
)


def check_entries(count: int, *, field: str) -> None:
    """Raises ContractError MESSAGE_TOO_LARGE if one message has more than 1024 of `field`."""
    if count > MOST_ENTRIES:
        raise ContractError(
            Reason.MESSAGE_TOO_LARGE,
            field,
            f"the message has {count} {field}; at most {MOST_ENTRIES} are allowed: send the others in further messages",
        )


def check_fields(message: bytes, kind: Any, *, most_text_bytes: int | None = None) -> None:
    """Raises ContractError MESSAGE_TOO_LARGE if `message` has more than 32768 fields, or a longer text.

    Stops counting if the message is malformed. Its reader reports that.

    Args:
        message: Serialized message.
        kind: Descriptor of its type.
        most_text_bytes: Longest text; None for any.
    """
    try:
        _count(message, 0, len(message), kind, 0, most_text_bytes)
    except _Malformed:
        return


class _Malformed(Exception):
    """The message is malformed here, so nothing after this point can be counted or read."""


def _count(message: bytes, position: int, stop: int, kind: Any, fields: int, most_text_bytes: int | None) -> int:
    """Returns `fields` plus the number of fields of `message` in [position, stop)."""
    parts = kind.fields_by_number
    while position < stop:
        fields += 1
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type == _LENGTH:
            size_bytes, position = _varint(message, position)
            end = position + size_bytes
            if end > stop:
                raise _Malformed
            part = parts.get(tag >> 3)
            if part is not None and part.message_type is not None:
                fields = _count(message, position, end, part.message_type, fields, most_text_bytes)
            elif part is not None and part.cpp_type in _PACKABLE:
                fields += len(message[position:end].translate(None, _CONTINUED))
            elif part is not None and part.type == FieldDescriptor.TYPE_STRING and most_text_bytes is not None:
                _check_text(size_bytes, most_text_bytes)
            position = end
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type not in (_START_GROUP, _END_GROUP):
            raise _Malformed
        if fields > MOST_FIELDS:
            raise ContractError(
                Reason.MESSAGE_TOO_LARGE, "message", f"the message has more than {MOST_FIELDS} fields, the most allowed"
            )
    return fields


def _check_text(size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise ContractError(
            Reason.MESSAGE_TOO_LARGE,
            "message",
            f"the message has a text of {size_bytes} bytes; names, ids and parameters have at most {most_bytes}",
        )


def _varint(message: bytes, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise _Malformed
