from __future__ import annotations

import gc
import sys
import threading
import time

import numpy as np
import pytest

from mse_grad.v1 import mse_grad_pb2 as pb
from mse_grad_client.shared_memory.allocator import Allocator
from mse_grad_client.shared_memory.handover import Handover, HandoverFailed, connect_for_requests
from mse_grad_client.shared_memory.segment import Segment
from support.same_host.descriptors import few_descriptors
from support.same_host.memory_listener import MemoryListener, refusing, taking

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

MIB = 2**20


@pytest.fixture
def segments() -> list[Segment]:
    return [Segment.create(number, MIB) for number in (1, 2, 3)]


def numbers(listener: MemoryListener) -> list[tuple[list[int], int]]:
    return [(list(packet.segments), descriptors) for packet, descriptors in listener.packets]


def test_the_first_packet_shows_the_secret_and_each_segment_goes_once(segments: list[Segment]) -> None:
    with MemoryListener() as listener:
        handover = Handover.open(listener.opened)
        assert [handover.has(segments[index]) for index in (0, 1, 0, 1)] == [True] * 4
        assert handover.is_open
        handover.close()
    first, *rest = listener.packets
    assert (first[0].instance_id, first[0].secret, first[1]) == ("scripted", b"secret", 0)
    assert not any(packet.secret for packet, _ in rest)
    assert numbers(listener) == [([], 0), ([1], 1), ([2], 1)]


@pytest.mark.parametrize(
    "name", ["", "other", "/run/other.sock", "mse-grad-", "mse-grad-a/../b", "mse-grad-" + "a" * 99]
)
def test_no_other_socket_is_connected_to(name: str) -> None:
    opened = pb.StreamOpened(shared_memory=pb.SharedMemoryOffer(socket_name=name, secret=b"secret"))
    with pytest.raises(HandoverFailed, match="offers no shared memory"):
        Handover.open(opened)


def test_a_missing_socket_fails() -> None:
    with pytest.raises(HandoverFailed, match="no process listens"):
        Handover.open(pb.StreamOpened(shared_memory=pb.SharedMemoryOffer(socket_name="mse-grad-nobody")))


def test_without_a_free_descriptor_the_handover_fails_as_without_a_server() -> None:
    with MemoryListener() as listener, few_descriptors(0), pytest.raises(HandoverFailed):
        Handover.open(listener.opened)


def test_without_a_free_descriptor_requests_go_over_the_stream() -> None:
    with MemoryListener(requests=lambda connection: None) as listener, few_descriptors(0):
        assert connect_for_requests(listener.opened) is None


@pytest.mark.parametrize("answer", [refusing(lambda packet: True), lambda packet: b"", lambda packet: b"no packet"])
def test_a_server_that_refuses_the_first_packet_gets_nothing(answer: object) -> None:
    assert callable(answer)
    with MemoryListener(answer) as listener, pytest.raises(HandoverFailed):
        Handover.open(listener.opened)


def test_a_segment_that_was_refused_is_not_tried_again(segments: list[Segment]) -> None:
    with MemoryListener(refusing(lambda packet: 1 in packet.segments)) as listener:
        handover = Handover.open(listener.opened)
        assert [handover.has(segments[index]) for index in (0, 0, 1)] == [False, False, True]
        handover.close()
    assert numbers(listener) == [([], 0), ([1], 1), ([2], 1)]


def test_more_than_the_server_maps_is_not_handed_over(segments: list[Segment]) -> None:
    with MemoryListener() as listener:
        listener.offer.max_mapped_bytes = 2 * MIB
        handover = Handover.open(listener.opened)
        assert [handover.has(segment) for segment in segments] == [True, True, False]
        handover.close()
    assert numbers(listener) == [([], 0), ([1], 1), ([2], 1)]


def test_a_server_that_closes_the_connection_has_nothing(segments: list[Segment]) -> None:
    with MemoryListener(
        lambda packet: b"" if 2 in packet.segments else refusing(lambda packet: False)(packet)
    ) as listener:
        handover = Handover.open(listener.opened)
        assert handover.has(segments[0])
        assert not handover.wait_ended(0)
        assert not handover.has(segments[1])
        assert not handover.has(segments[0])
        assert not handover.is_open
        assert handover.wait_ended(20)
        handover.close()
        assert handover.wait_ended(0)


def test_a_caller_without_time_does_not_wait_for_the_answer_which_the_next_caller_reads(
    segments: list[Segment],
) -> None:
    is_going_on = threading.Event()

    def answer(packet: pb.SharedMemoryHandover) -> bytes:
        if packet.segments:
            is_going_on.wait()
        return taking(packet)

    with MemoryListener(answer) as listener:
        handover = Handover.open(listener.opened)
        try:
            assert not handover.has(segments[0], deadline=time.monotonic())
            assert not handover.has(segments[1], deadline=time.monotonic())
        finally:
            is_going_on.set()
        assert [handover.has(segment) for segment in segments[:2]] == [True, True]
        handover.close()
    assert numbers(listener) == [([], 0), ([1], 1), ([2], 1)]


def test_a_segment_withdrawn_without_time_is_forgotten_when_the_answer_comes() -> None:
    is_going_on = threading.Event()

    def answer(packet: pb.SharedMemoryHandover) -> bytes:
        if packet.withdrawn:
            is_going_on.wait()
        return taking(packet)

    allocator = Allocator()
    with MemoryListener(answer) as listener:
        handover = Handover.open(listener.opened)
        arrays = [allocator.empty(400 * MIB, np.uint8) for _ in range(2)]
        assert all(handover.has(segment) for segment in allocator.segments)
        del arrays
        gc.collect()
        allocator.settle()
        try:
            handover.withdraw_gone(allocator, deadline=time.monotonic())
        finally:
            is_going_on.set()
        assert handover.has(Segment.create(9, MIB))
        handover.withdraw_gone(allocator)
        handover.close()
    allocator.close()
    assert [list(packet.withdrawn) for packet, _ in listener.packets] == [[], [], [], [2], [], [9]]


def test_after_this_side_has_closed_the_end_of_the_server_stays_unknown(segments: list[Segment]) -> None:
    with MemoryListener() as listener:
        handover = Handover.open(listener.opened)
        handover.close()
        assert not handover.wait_ended(0)


def test_segments_that_the_allocator_gave_back_are_withdrawn() -> None:
    allocator = Allocator()
    with MemoryListener() as listener:
        handover = Handover.open(listener.opened)
        arrays = [allocator.empty(400 * MIB, np.uint8) for _ in range(2)]
        assert all(handover.has(segment) for segment in allocator.segments)
        handover.withdraw_gone(allocator)
        del arrays
        gc.collect()
        allocator.settle()
        handover.withdraw_gone(allocator)
        handover.withdraw_gone(allocator)
        handover.close()
    allocator.close()
    assert [list(packet.withdrawn) for packet, _ in listener.packets] == [[], [], [], [2]]
