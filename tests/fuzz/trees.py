"""Trees of protobuf fields: what a fuzzer changes, and what becomes bytes again, valid or not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from support.wire_messages import tag_of, varint

__all__ = [
    "FIXED32",
    "FIXED64",
    "LENGTH_DELIMITED",
    "START_GROUP",
    "VARINT",
    "Content",
    "Field",
    "Tree",
    "copied",
    "encoded",
    "tree_of",
]

VARINT, FIXED64, LENGTH_DELIMITED, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5

Content: TypeAlias = "int | bytes | list[Field]"
Tree: TypeAlias = "list[Field]"


@dataclass(slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: Number.
        wire_type: Wire type.
        content: A number, bytes, or the fields of a submessage.
        width: Least bytes of a varint; more than it needs end in zeros.
        lie_bytes: What the length says beyond the bytes that follow.
    """

    number: int
    wire_type: int
    content: Content
    width: int = 0
    lie_bytes: int = 0


def tree_of(message: bytes, kind: Any) -> Tree:
    """Returns the fields of a valid message without groups; submessages are those that `kind` knows."""
    tree: Tree = []
    at = 0
    while at < len(message):
        tag, at = _varint_at(message, at)
        number, wire_type = tag >> 3, tag & 7
        content: Content
        if wire_type == VARINT:
            content, at = _varint_at(message, at)
        elif wire_type == LENGTH_DELIMITED:
            size_bytes, at = _varint_at(message, at)
            inner = message[at : at + size_bytes]
            at += size_bytes
            known = kind.fields_by_number.get(number) if kind is not None else None
            is_message = known is not None and known.message_type is not None
            content = tree_of(inner, known.message_type) if is_message else inner  # type: ignore[union-attr]
        else:
            size_bytes = 8 if wire_type == FIXED64 else 4
            content = message[at : at + size_bytes]
            at += size_bytes
        tree.append(Field(number, wire_type, content))
    return tree


def copied(tree: Tree) -> Tree:
    """Returns a deep copy."""
    return [
        Field(
            field.number,
            field.wire_type,
            copied(field.content) if isinstance(field.content, list) else field.content,
            field.width,
            field.lie_bytes,
        )
        for field in tree
    ]


def encoded(tree: Tree) -> bytes:
    """Returns the message as bytes."""
    return b"".join(map(_encoded_field, tree))


_tag_of = lru_cache(tag_of)


def _encoded_field(field: Field) -> bytes:
    content = field.content
    tag = _tag_of(field.number, field.wire_type)
    if field.wire_type == VARINT:
        return tag + varint(content if isinstance(content, int) else len(content), width=field.width)
    contents = encoded(content) if isinstance(content, list) else content
    if isinstance(contents, int):
        contents = varint(contents)
    if field.wire_type == LENGTH_DELIMITED:
        return tag + varint(len(contents) + field.lie_bytes, width=field.width) + contents
    if field.wire_type == START_GROUP:
        return tag + contents + (b"" if field.lie_bytes else _tag_of(field.number, END_GROUP))
    size_bytes = {FIXED64: 8, FIXED32: 4}.get(field.wire_type, 0)
    return tag + contents[:size_bytes].ljust(size_bytes, b"\0")


def _varint_at(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        digit = message[at]
        at += 1
        number |= (digit & 0x7F) << shift
        if digit < 0x80:
            return number, at
        shift += 7
