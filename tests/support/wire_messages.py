"""Messages of the contract as bytes: as encoders write them, in unusual valid encodings, and malformed.

Written separately from the codec under test; the two share no code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mse_grad.record import Record
from mse_grad.v1 import mse_grad_pb2 as pb

__all__ = [
    "broken",
    "length_delimited",
    "plain",
    "stream_requests",
    "stream_responses",
    "tag_of",
    "unary_requests",
    "unary_responses",
    "varint",
]

VARINT, FIXED64, LENGTH_DELIMITED, START_GROUP, END_GROUP, FIXED32 = 0, 1, 2, 3, 4, 5


def varint(number: int, *, width: int = 0) -> bytes:
    """Returns `number` modulo 2^64 as a varint of at least `width` bytes; a wider one than needed ends in zeros."""
    number %= 2**64
    digits = [number & 0x7F]
    number >>= 7
    while number or len(digits) < width:
        digits.append(number & 0x7F)
        number >>= 7
    return bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:])


def tag_of(number: int, wire_type: int) -> bytes:
    """Returns the tag of the field `number`."""
    return varint(number << 3 | wire_type)


def length_delimited(number: int, content: bytes) -> bytes:
    """Returns the field `number` with `content`: bytes, a string, a submessage or packed numbers."""
    return tag_of(number, LENGTH_DELIMITED) + varint(len(content)) + content


def plain(value: Any) -> Any:
    """Returns a decoded value, or the generated message that it mirrors, as dicts, lists and bytes that compare."""
    if isinstance(value, Record):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, Message):
        return {field.name: plain(_get(value, field.name)) for field in value.DESCRIPTOR.fields}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | int | None):
        return value
    return [plain(item) for item in value]


def _get(message: Message, name: str) -> Any:
    field = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if isinstance(value, pb.Tensor) or not field.has_presence:
        return value
    return value if message.HasField(name) else None


# Numbers near every boundary: one and two bytes, int32, int64, and the ten bytes of negative numbers.
_NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(-5, 5).map(lambda n: n % 2**64)) | (
    st.sampled_from([127, 128, 16383, 16384, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63])
)
_CONTENTS = st.binary(max_size=6) | st.sampled_from([bytes(127), bytes(128), bytes(200)])
_TEXTS = st.text(max_size=6).map(str.encode)


def _varints(number: int, *, wide: bool) -> SearchStrategy[bytes]:
    width = st.sampled_from([0, 0, 0, 2, 5, 9, 10]) if wide else st.just(0)
    return st.builds(lambda value, width: tag_of(number, VARINT) + varint(value, width=width), _NUMBERS, width)


def _packed(number: int) -> SearchStrategy[bytes]:
    return st.lists(_NUMBERS, max_size=4).map(
        lambda numbers: length_delimited(number, b"".join(varint(value) for value in numbers))
    )


def _submessages(number: int, content: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    return content.map(lambda inner: length_delimited(number, inner))


def _unknown(known: Sequence[int], *, wild: bool) -> SearchStrategy[bytes]:
    """Fields that a reader skips: of unknown numbers, and if wild also of known numbers with a wrong wire type."""
    strangers = st.integers(1, 15).filter(lambda number: number not in known)
    tame = [
        st.builds(lambda number, value: tag_of(number, VARINT) + varint(value), strangers, _NUMBERS),
        st.builds(length_delimited, strangers, _CONTENTS),
    ]
    if not wild:
        return st.one_of(tame)
    numbers = st.integers(1, 20) | st.sampled_from([2047, 2048, 2**29 - 1])
    return st.one_of(
        *tame,
        st.builds(lambda number, value: tag_of(number, VARINT) + varint(value), numbers, _NUMBERS),
        st.builds(length_delimited, numbers, _CONTENTS),
        st.builds(lambda number, value: tag_of(number, FIXED64) + value, numbers, st.binary(min_size=8, max_size=8)),
        st.builds(lambda number, value: tag_of(number, FIXED32) + value, numbers, st.binary(min_size=4, max_size=4)),
        st.builds(
            lambda number, inner: tag_of(number, START_GROUP) + inner + tag_of(number, END_GROUP),
            numbers,
            st.builds(length_delimited, numbers, _CONTENTS),
        ),
    )


def _message(known: dict[int, SearchStrategy[bytes]], *, wild: bool, once: Sequence[int] = ()) -> SearchStrategy[bytes]:
    """Any number of the known fields in any order, with unknown fields between them.

    Args:
        known: Fields by number.
        wild: Whether unusual encodings occur: other wire types, groups, fields of `once` given twice.
        once: Numbers of the submessages that are not repeated; given twice, they are merged.
    """
    entries = [st.tuples(st.just(number), strategy) for number, strategy in known.items()]
    strangers = st.tuples(st.just(0), _unknown(tuple(known), wild=wild))
    return st.lists(st.one_of(*entries, *entries, strangers), max_size=8).map(
        lambda items: b"".join(_dropped(items, () if wild else once))
    )


def _dropped(items: Sequence[tuple[int, bytes]], once: Sequence[int]) -> list[bytes]:
    seen: set[int] = set()
    kept = []
    for number, encoded in items:
        if number in seen and number in once:
            continue
        seen.add(number)
        kept.append(encoded)
    return kept


def _headers(*, wild: bool) -> SearchStrategy[bytes]:
    numbers = {number: _varints(number, wide=wild) for number in (1, 2, 4, 6, 7, 10)}
    shape = _varints(3, wide=wild) | _packed(3)
    texts = {number: st.builds(length_delimited, st.just(number), _TEXTS) for number in (8, 9)}
    words = {number: st.builds(length_delimited, st.just(number), _TEXTS) for number in (1, 2)}
    metadata = _submessages(11, _message(words, wild=wild))
    return _message({**numbers, 3: shape, 5: _bytes(5), **texts, 11: metadata}, wild=wild)


def _chunks(*, wild: bool) -> SearchStrategy[bytes]:
    numbers = {number: _varints(number, wide=wild) for number in (1, 2)}
    operands = {number: _bytes(number) for number in (3, 4, 5)}
    shared = _message({number: _varints(number, wide=wild) for number in range(1, 10)}, wild=wild)
    return _message({**numbers, **operands, 6: _submessages(6, shared)}, wild=wild, once=(6,))


def _results(*, wild: bool) -> SearchStrategy[bytes]:
    numbers = {number: _varints(number, wide=wild) for number in (1, 2, 4)}
    return _message({**numbers, 3: _bytes(3)}, wild=wild)


def _tensors(*, wild: bool) -> SearchStrategy[bytes]:
    shape = _varints(2, wide=wild) | _packed(2)
    return _message({1: _varints(1, wide=wild), 2: shape, 3: _bytes(3)}, wild=wild)


def _statuses(*, wild: bool) -> SearchStrategy[bytes]:
    detail = _message({1: st.just(length_delimited(1, b"a/b.C")), 2: _bytes(2)}, wild=wild)
    known = {1: _varints(1, wide=wild), 2: _TEXTS.map(lambda text: length_delimited(2, text))}
    return _message({**known, 3: _submessages(3, detail)}, wild=wild)


def _bytes(number: int) -> SearchStrategy[bytes]:
    return _CONTENTS.map(lambda content: length_delimited(number, content))


def stream_requests(*, wild: bool) -> SearchStrategy[bytes]:
    """`StreamGradientsRequest` messages; `wild` ones hold unusual encodings too, a few of them malformed."""
    cancel_ids = _varints(3, wide=wild) | _packed(3)
    known = {1: _submessages(1, _headers(wild=wild)), 2: _submessages(2, _chunks(wild=wild)), 3: cancel_ids}
    return _message(known, wild=wild)


def stream_responses(*, wild: bool) -> SearchStrategy[bytes]:
    """`StreamGradientsResponse` messages; `wild` as above."""
    ended = _message({1: _varints(1, wide=wild), 2: _submessages(2, _statuses(wild=wild))}, wild=wild)
    limits = _message({number: _varints(number, wide=wild) for number in range(1, 7)}, wild=wild)
    instance = _TEXTS.map(lambda text: length_delimited(1, text))
    most = {number: _varints(number, wide=wild) for number in (3, 4)}
    path = _TEXTS.map(lambda text: length_delimited(5, text))
    offer = _message({1: instance, 2: _bytes(2), **most, 5: path}, wild=wild)
    host = _TEXTS.map(lambda text: length_delimited(1, text))
    numbers = {number: _varints(number, wide=wild) for number in (2, 4)}
    direct = _message({1: host, **numbers, 3: _bytes(3)}, wild=wild)
    opened = _message(
        {1: instance, 2: _submessages(2, limits), 3: _submessages(3, offer), 4: _submessages(4, direct)}, wild=wild
    )
    known = {
        1: _submessages(1, opened),
        2: _submessages(2, _results(wild=wild)),
        3: _submessages(3, ended),
        4: _submessages(4, ended),
    }
    return _message(known, wild=wild)


def unary_requests(*, wild: bool) -> SearchStrategy[bytes]:
    """`ComputeGradientRequest` messages; `wild` as above."""
    tensors = {number: _submessages(number, _tensors(wild=wild)) for number in (1, 2, 3)}
    numbers = {number: _varints(number, wide=wild) for number in (4, 5)}
    return _message({**tensors, **numbers}, wild=wild, once=(1, 2, 3))


def unary_responses(*, wild: bool) -> SearchStrategy[bytes]:
    """`ComputeGradientResponse` messages; `wild` as above."""
    known = {1: _submessages(1, _tensors(wild=wild)), 2: _varints(2, wide=wild)}
    return _message(known, wild=wild, once=(1,))


@st.composite
def broken(draw: st.DrawFn, messages: SearchStrategy[bytes]) -> bytes:
    """Messages that are truncated, or have a few bytes changed, inserted or removed; some of them are still valid."""
    message = bytearray(draw(messages))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(message)))
        change = draw(st.sampled_from(["cut", "set", "insert", "remove"]))
        if change == "cut":
            del message[position:]
        elif change == "set":
            message[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
        elif change == "insert":
            message[position:position] = draw(st.binary(min_size=1, max_size=3) | st.sampled_from([bytes([128] * 9)]))
        else:
            del message[position : position + draw(st.integers(1, 3))]
    return bytes(message)
