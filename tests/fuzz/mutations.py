"""Mutations of messages: first of their fields, so that most of a message stays valid, then of single bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

from fuzz.trees import FIXED32, FIXED64, LENGTH_DELIMITED, START_GROUP, VARINT, Field, Tree, copied, encoded

__all__ = ["MOST_BYTES", "broken_bytes", "mutated", "odd_number", "odd_text"]

MOST_BYTES = 150 * 1024
"""Largest message that a mutation makes; it fits a packet of a unix socket."""

# Numbers at which sizes, counts and types end.
_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 63, 64, 127, 128, 255, 256, 1023, 1024, 1025, 4095, 4096, 4097),
    *(2**14 - 1, 2**14, 2**15, 2**16 - 1, 2**16, 2**20, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40),
    *(2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, 2**64 - 2**31, 2**64 - 2**40),
)
_TEXTS = (
    *(b"", b"\0", b" ", b"\n", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"%s%n", b"{}", b"../../etc"),
    *(b"a" * 64, b"a" * 65, b"a" * 127, b"a" * 128, b"a" * 129, b"a" * 256, b"a" * 257, b"\n" * 1000, b"\x1b[2J"),
    *(b"mean", b"sum", b"none", b"MEAN", b"mse_grad", b"FP32", b"FP64", b"predict", b"label", b"dout", b"y"),
)
# Elements that are infinite, not a number, the smallest and the largest, in several dtypes.
_ELEMENTS = (
    *(b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x01\x00\x00\x00", b"\xff\xff\x7f\x7f", b"\x00\x7c", b"\x00\x7e"),
    *(b"\x80\x7f", b"\xc0\x7f", b"\x00\x00\x00\x00\x00\x00\xf0\x7f", b"\xff" * 8, b"\x00\x00\x00\x80"),
)


def odd_number(rng: random.Random, near: int = 0) -> int:
    """Returns a number that code may treat wrongly."""
    choice = rng.random()
    if choice < 0.5:
        return rng.choice(_NUMBERS)
    if choice < 0.8:
        return (near + rng.choice((-2, -1, 1, 2, 3, 7, 8))) % 2**64
    return rng.getrandbits(rng.choice((3, 7, 8, 16, 31, 32, 33, 63, 64)))


def odd_text(rng: random.Random) -> bytes:
    """Returns a text that code may treat wrongly; not always UTF-8."""
    return rng.choice(_TEXTS) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 2, 4, 8, 33, 200)))


def mutated(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> bytes:
    """Returns the message of `tree` after one or more changes; some of these messages are still valid.

    Args:
        rng: Source of every choice.
        tree: Fields of a valid message; not changed.
        others: Returns the fields of another valid message, from which parts are taken.
    """
    tree = copied(tree)
    for _ in range(_count(rng)):
        rng.choice(_CHANGES)(rng, tree, others)
    message = encoded(tree)
    if rng.random() < 0.15:
        message = broken_bytes(rng, message)
    return message[:MOST_BYTES]


def broken_bytes(rng: random.Random, message: bytes) -> bytes:
    """Returns `message` with a few bytes changed, inserted, removed or cut off."""
    changed = bytearray(message)
    for _ in range(_count(rng)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del changed[at:]
        elif kind == 1 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and at < len(changed):
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            changed[at:at] = rng.choice((b"\0", b"\xff" * 9, b"\x80" * 10, rng.randbytes(3)))
        else:
            del changed[at : at + rng.choice((1, 2, 4, 16))]
    return bytes(changed)


def _count(rng: random.Random) -> int:
    count = 1
    while rng.random() < 0.4 and count < 8:
        count += 1
    return count


def _places(tree: Tree) -> list[tuple[Tree, int]]:
    places = []
    for index, field in enumerate(tree):
        places.append((tree, index))
        if isinstance(field.content, list):
            places += _places(field.content)
    return places


def _trees(tree: Tree) -> list[Tree]:
    return [tree, *(inner for field in tree if isinstance(field.content, list) for inner in _trees(field.content))]


def _place(rng: random.Random, tree: Tree) -> tuple[Tree, int] | None:
    places = _places(tree)
    return rng.choice(places) if places else None


def _change_content(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is None:
        return
    field = place[0][place[1]]
    if isinstance(field.content, int):
        field.content = odd_number(rng, field.content)
    elif isinstance(field.content, bytes):
        field.content = _odd_bytes(rng, field.content)
    elif rng.random() < 0.2:
        field.content = rng.choice((b"", b"\0", b"\xff" * 5))


def _odd_bytes(rng: random.Random, content: bytes) -> bytes:
    kind = rng.randrange(7)
    if kind == 0:
        return odd_text(rng)
    if kind == 1:
        return content[: -rng.choice((1, 2, 4, 8))]
    if kind == 2:
        return content + bytes(rng.choice((1, 2, 4, 8)))
    if kind == 3:
        return content * 2
    if kind == 4:
        element = rng.choice(_ELEMENTS)
        return (element * (len(content) // len(element) + 1))[: len(content)]
    if kind == 5:
        return rng.randbytes(len(content))
    return broken_bytes(rng, content)


def _remove(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is not None:
        del place[0][place[1]]


def _repeat(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is None:
        return
    fields, index = place
    size_bytes = max(1, len(encoded([fields[index]])))
    times = min(
        rng.choice((1, 1, 1, 2, 5, 20)) if rng.random() < 0.9 else rng.choice((1024, 1025, 4000)),
        MOST_BYTES // 2 // size_bytes,
    )
    fields[index:index] = copied([fields[index]] * times)


def _move(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is not None:
        field = place[0].pop(place[1])
        target = rng.choice(_trees(tree))
        target.insert(rng.randrange(len(target) + 1), field)


def _renumber(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is not None:
        place[0][place[1]].number = rng.choice((0, 1, 2, 3, 4, 5, 6, 9, 11, 15, 16, 19_000, 2**29 - 1, 2**29, 2**32))


def _retype(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is not None:
        place[0][place[1]].wire_type = rng.choice((VARINT, FIXED64, LENGTH_DELIMITED, START_GROUP, 4, FIXED32, 6, 7))


def _lie(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    if (place := _place(rng, tree)) is None:
        return
    field = place[0][place[1]]
    if field.wire_type == VARINT or rng.random() < 0.2:
        field.width = rng.choice((2, 5, 9, 10, 11))
    else:
        field.lie_bytes = rng.choice((-8, -1, 1, 2, 100, 2**31, 2**32, 2**63))


def _graft(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    other = _place(rng, others())
    if other is not None:
        target = rng.choice(_trees(tree))
        at = rng.randrange(len(target) + 1)
        target[at:at] = copied([other[0][other[1]]])


def _add_stranger(rng: random.Random, tree: Tree, others: Callable[[], Tree]) -> None:
    target = rng.choice(_trees(tree))
    number = rng.choice((12, 15, 16, 99, 2**29 - 1))
    kind = rng.randrange(4)
    if kind == 0:
        stranger = Field(number, VARINT, odd_number(rng))
    elif kind == 1:
        stranger = Field(number, LENGTH_DELIMITED, odd_text(rng))
    elif kind == 2:
        stranger = Field(number, rng.choice((FIXED64, FIXED32)), rng.randbytes(8))
    else:  # groups within groups, or messages within messages
        wire_type = rng.choice((START_GROUP, LENGTH_DELIMITED))
        stranger = Field(number, wire_type, b"")
        for _ in range(rng.choice((1, 5, 99, 101, 500))):
            stranger = Field(number, wire_type, encoded([stranger]))
    target.insert(rng.randrange(len(target) + 1), stranger)


_CHANGES = (
    *(_change_content,) * 6,
    *(_remove, _remove, _repeat, _repeat, _move, _move, _renumber, _retype, _lie, _graft, _graft, _add_stranger),
)
