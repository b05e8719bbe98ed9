"""Framing of direct connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mse_grad.frames import HEAD_BYTES, FrameBuffer, drop_sent, head
from mse_grad.reasons import ContractError, Reason

MOST_BYTES = 2**20


def taken(frames: FrameBuffer) -> list[bytes]:
    """Returns the complete messages."""
    found = []
    while (message := frames.next_message()) is not None:
        found.append(bytes(message))
    return found


def feed(frames: FrameBuffer, data: bytes, sizes: list[int]) -> list[bytes]:
    """Gives `data` to `frames` in parts of at most these sizes, over and over, and returns the messages."""
    found, turn = taken(frames), 0
    while data:
        room = frames.room()
        size = min(len(room), len(data), sizes[turn % len(sizes)])
        assert size > 0
        room[:size] = data[:size]
        frames.received(size)
        data, turn = data[size:], turn + 1
        found += taken(frames)
    return found


# Small messages share a buffer of 64 KiB; larger ones get their own.
MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.integers(65_000, 66_000).map(lambda size: b"\x5a" * size),
        st.integers(100_000, 300_000).map(lambda size: b"\xa5" * size),
    ),
    max_size=12,
)


@given(MESSAGES, st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_messages_come_out_whole_however_their_bytes_arrive(messages: list[bytes], sizes: list[int]) -> None:
    frames = FrameBuffer(most_bytes=MOST_BYTES)
    data = b"".join(head(len(message)) + message for message in messages)
    assert feed(frames, data, [*sizes, 4096]) == messages
    assert not frames.has_bytes


@pytest.mark.parametrize("received_bytes", [0, 1, 100])
def test_a_message_that_is_too_large_is_refused_by_its_head(received_bytes: int) -> None:
    frames = FrameBuffer(most_bytes=MOST_BYTES)
    with pytest.raises(ContractError, match=f"a message of {2**32 - 1} bytes was announced") as refused:
        feed(frames, b"\xff" * HEAD_BYTES + bytes(received_bytes), [200])
    assert refused.value.reason is Reason.MESSAGE_TOO_LARGE


def test_a_small_limit_holds_for_messages_that_have_arrived() -> None:
    frames = FrameBuffer(most_bytes=10)
    assert feed(frames, head(10) + bytes(10), [100]) == [bytes(10)]
    with pytest.raises(ContractError):
        feed(frames, head(11) + bytes(11), [100])


@pytest.mark.parametrize("size", [1, 70_000])
def test_a_part_of_a_message_is_noticed(size: int) -> None:
    frames = FrameBuffer(most_bytes=MOST_BYTES)
    assert not frames.has_bytes
    assert feed(frames, head(size)[:2], [100]) == []
    assert frames.has_bytes
    assert feed(frames, head(size)[2:] + bytes(size - 1), [2**16]) == []
    assert frames.has_bytes
    assert feed(frames, b"\0", [100]) == [bytes(size)]
    assert not frames.has_bytes


@given(st.lists(st.binary(max_size=20), max_size=10), st.data())
def test_sent_bytes_are_dropped_from_the_front(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    sent = data.draw(st.integers(0, len(whole)))
    buffers: list[bytes | bytearray | memoryview] = list(parts)
    drop_sent(buffers, sent)
    assert b"".join(buffers) == whole[sent:]
