from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from mse_grad_client.interrupts import Latch
from mse_grad_client.retry import Wake
from mse_grad_client.routing.room import Room

Wait = Callable[[Latch, float], Awaitable[bool]]


def meanwhile(action: Callable[[], object] = lambda: None) -> Wait:
    """Returns a wait that is over once `action` was run."""

    async def wait(latch: Latch, longest_s: float) -> bool:
        action()
        return latch.is_set()

    return wait


def ended(room: Room, wait: Wait, size_bytes: int) -> Wake:
    with pytest.raises(StopIteration) as returned:
        room.pause(wait, 1.0, size_bytes).send(None)
    wake: Wake = returned.value.value
    return wake


@pytest.fixture
def closed() -> Latch:
    return Latch()


@pytest.fixture
def room(closed: Latch) -> Room:
    return Room(closed)


@pytest.mark.parametrize(
    ("answered", "wake"), [([], Wake.TIME), ([99], Wake.TIME), ([100], Wake.ROOM), ([60, 40], Wake.ROOM)]
)
def test_a_refused_request_goes_again_once_as_many_bytes_were_answered(
    room: Room, answered: list[int], wake: Wake
) -> None:
    room.answered(1000)  # before its refusal

    def answer() -> None:
        for size_bytes in answered:
            room.answered(size_bytes)

    assert ended(room, meanwhile(answer), 100) is wake


def test_refused_requests_go_again_in_their_order_and_answers_count_once(room: Room) -> None:
    wakes: list[Wake] = []

    def second() -> None:
        wakes.append(ended(room, meanwhile(lambda: room.answered(130)), 50))

    wakes.append(ended(room, meanwhile(second), 100))
    assert wakes == [Wake.TIME, Wake.ROOM]
    # A turn that is over leaves its place to the next one.
    assert ended(room, meanwhile(lambda: room.answered(50)), 50) is Wake.ROOM


def test_closing_the_client_ends_a_pause(room: Room, closed: Latch) -> None:
    assert ended(room, meanwhile(closed.set), 100) is Wake.CLOSED
    assert ended(room, meanwhile(), 100) is Wake.CLOSED
    assert ended(room, meanwhile(), 0) is Wake.CLOSED


def test_other_pauses_take_their_time(room: Room) -> None:
    assert ended(room, meanwhile(lambda: room.answered(100)), 0) is Wake.TIME
