from __future__ import annotations

import gc
import sys

import pytest

from mse_grad.codec.writable import unfilled_message


@pytest.mark.parametrize("size_bytes", [0, 1, 2, 4096, 2**20 + 1])
def test_bytes_written_through_the_view_are_the_message(size_bytes: int) -> None:
    message, contents = unfilled_message(size_bytes)
    assert type(message) is bytes
    assert len(message) == contents.nbytes == size_bytes
    written = bytes(range(256)) * (size_bytes // 256 + 1)
    contents[:] = written[:size_bytes]
    assert message == written[:size_bytes]


def test_no_two_messages_share_their_bytes() -> None:
    messages = [unfilled_message(1) for _ in range(300)]
    for index, (_, contents) in enumerate(messages):
        contents[0] = index % 256
    assert [message[0] for message, _ in messages] == [index % 256 for index in range(300)]


def test_a_view_keeps_its_message_alive() -> None:
    message, contents = unfilled_message(4096)
    part = contents[10:20]
    held = sys.getrefcount(message)
    del contents
    gc.collect()
    assert sys.getrefcount(message) == held
    del part
    gc.collect()
    assert sys.getrefcount(message) == held - 1


def test_a_view_is_bounded_by_its_message() -> None:
    _, contents = unfilled_message(16)
    with pytest.raises(IndexError):
        contents[16] = 1
    assert contents[8:1000].nbytes == 8


@pytest.mark.parametrize("size_bytes", [-1, 2**31])
def test_a_size_that_no_message_has_is_refused(size_bytes: int) -> None:
    with pytest.raises(ValueError, match=rf"{size_bytes} bytes was requested; protobuf allows at most 2\^31 - 1"):
        unfilled_message(size_bytes)
