from __future__ import annotations

import mmap
import os
import sys
import threading

import numpy as np
import pytest

from mse_grad.tensor import Array
from mse_grad_client.shared_memory.segment import Segment
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

PAGE = mmap.PAGESIZE
SIZE = 64 * PAGE


class Shared:
    """A segment as its owner and a server see it."""

    def __init__(self) -> None:
        self.segment = Segment.create(1, SIZE)
        self.ours: Array = np.frombuffer(self.segment.contents, np.uint8)
        self.theirs: Array = np.frombuffer(mmap.mmap(self.segment.descriptor, SIZE), np.uint8)


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [(0, PAGE), (PAGE // 2, PAGE), (10, 20), (100, 5 * PAGE + 7), (3 * PAGE, 4 * PAGE), (SIZE - 5, 5), (0, SIZE)],
)
def test_late_writes_of_a_server_are_not_seen_and_neighbours_keep_their_content(offset: int, size_bytes: int) -> None:
    shared = Shared()
    shared.ours[:] = 1
    shared.segment.detach(offset, size_bytes)
    range_ = slice(offset, offset + size_bytes)
    shared.ours[range_] = 2
    shared.theirs[range_] = 3
    assert (shared.ours[range_] == 2).all()
    assert (shared.ours[:offset] == 1).all()
    assert (shared.ours[offset + size_bytes :] == 1).all()


def test_writes_of_other_threads_beside_it_are_not_lost() -> None:
    shared = Shared()
    beside = shared.ours[PAGE - 1 :: PAGE]
    began, stopping = threading.Event(), threading.Event()
    lost: list[int] = []

    def count() -> None:
        number = 0
        while not stopping.is_set():
            number = (number + 1) % 251
            for page in range(len(beside)):
                beside[page] = number
            lost.extend(int(found) for found in beside if found != number)
            began.set()

    thread = threading.Thread(target=count)
    thread.start()
    assert began.wait(PATIENCE_S)
    for page in range(len(beside)):
        shared.segment.detach(page * PAGE, PAGE - 1)
    stopping.set()
    thread.join()
    assert lost == []


def test_a_page_that_two_arrays_share_keeps_writes_since_the_first_was_detached() -> None:
    shared = Shared()
    shared.segment.detach(0, 100)
    shared.ours[:100] = 2
    shared.theirs[:100] = 3
    shared.segment.detach(100, 2 * PAGE)
    assert (shared.ours[:100] == 2).all()


def test_the_descriptor_is_closed_with_the_segment_and_the_memory_stays() -> None:
    segment = Segment.create(1, SIZE)
    contents, descriptor = np.frombuffer(segment.contents, np.uint8), segment.descriptor
    os.fstat(descriptor)
    del segment
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    contents[:] = 1
    assert (contents == 1).all()
