"""Admission of requests by their bytes, without a server."""

from __future__ import annotations

import asyncio

import pytest
from typing_extensions import override

from mse_grad_server.engine.admission import MessageAdmission, SharedAdmission, Waiting
from mse_grad_server.engine.shares import Share
from mse_grad_server.errors import QuotaExceeded, ServerBusy


class Request(Waiting):
    def __init__(self, size_bytes: int, begun: list[Request], *, share: Share, due_s: float = 0.0) -> None:
        self.share = share
        self.size_bytes = size_bytes
        self.due_s = due_s
        self._begun = begun

    @override
    def begin(self) -> None:
        self._begun.append(self)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_of_many_requests_that_fit_some_begin_in_each_turn_of_the_loop() -> None:
    admission, begun, share = SharedAdmission(100, most_waiting=20), list[Request](), Share()
    other = Share("other")
    assert admission.admit(Request(100, begun, share=other))
    requests = [Request(1, begun, share=share) for _ in range(18)]
    assert not any(admission.admit(request) for request in requests)
    with pytest.raises(ServerBusy):
        admission.admit(Request(1, begun, share=share))
    admission.release(other, 100)
    assert not begun, "a request begins inside of the end of another one"
    begins = []
    while len(begun) < 18:
        await asyncio.sleep(0)
        begins.append(len(begun))
    assert begins == [8, 16, 18]
    assert begun == requests
    assert admission.in_flight_bytes == share.shared_bytes == 18


async def test_a_lone_request_larger_than_the_bound_begins_and_keeps_others_waiting() -> None:
    admission, begun, share = SharedAdmission(100, most_waiting=20), list[Request](), Share()
    assert admission.admit(Request(1, begun, share=share))
    large, small = Request(1000, begun, share=share), Request(1, begun, share=share)
    assert not admission.admit(large)
    assert not admission.admit(small)
    for ended, waiting in ((1, large), (1000, small)):
        assert admission.is_blocked
        admission.release(share, ended)
        await asyncio.sleep(0)
        assert begun[-1] is waiting
    assert not admission.is_blocked


async def test_clients_with_requests_that_wait_begin_theirs_in_turn() -> None:
    admission, begun, other = SharedAdmission(100, most_waiting=100), list[Request](), Share("other")
    greedy, modest = Share("greedy"), Share("modest")
    assert admission.admit(Request(100, begun, share=other))
    for share, count in ((greedy, 64), (modest, 2)):
        for _ in range(count):
            assert not admission.admit(Request(1, begun, share=share))
    admission.release(other, 100)
    await turns(12)
    assert [request.share for request in begun[:5]] == [greedy, modest, greedy, modest, greedy]
    assert len(begun) == 66


async def test_a_client_may_hold_three_quarters_and_others_pass_it_meanwhile() -> None:
    admission, begun = SharedAdmission(100, most_waiting=100), list[Request]()
    greedy, modest = Share("greedy"), Share("modest")
    assert [admission.admit(Request(25, begun, share=greedy)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert admission.admit(Request(20, begun, share=modest))
    admission.release(greedy, 25)
    await turns()
    assert len(begun) == 1, "the room that its own request left is the client's again"
    assert (greedy.shared_bytes, modest.shared_bytes) == (75, 20)


async def test_a_refused_request_is_told_which_bound_on_waiting_requests_is_reached() -> None:
    admission, begun = SharedAdmission(100, most_waiting=16), list[Request]()
    other, greedy, modest = Share("other"), Share("greedy"), Share("modest")
    assert admission.admit(Request(100, begun, share=other))
    assert not admission.admit(Request(1, begun, share=modest))
    for _ in range(14):
        assert not admission.admit(Request(1, begun, share=greedy))
    with pytest.raises(ServerBusy, match=r"^14 requests of this client are waiting already, the most for one client$"):
        admission.admit(Request(1, begun, share=greedy))
    assert not admission.admit(Request(1, begun, share=modest))
    for share in (greedy, modest):
        with pytest.raises(ServerBusy, match=r"^16 requests are waiting already, the most that the server allows$"):
            admission.admit(Request(1, begun, share=share))


async def test_of_the_requests_of_one_client_the_earliest_deadline_begins_first() -> None:
    admission, begun, share = SharedAdmission(100, most_waiting=100), list[Request](), Share()
    assert admission.admit(Request(100, begun, share=share))
    waiting = [Request(1, begun, share=share, due_s=due_s) for due_s in (5.0, 1.0, 5.0, 3.0)]
    assert not any(admission.admit(request) for request in waiting)
    admission.forget(waiting[1])
    admission.release(share, 100)
    await turns()
    assert begun == [waiting[3], waiting[0], waiting[2]]


async def test_a_quota_in_shared_memory_makes_requests_wait() -> None:
    admission, begun, share = SharedAdmission(100, most_waiting=100), list[Request](), Share("small")
    share.most_bytes = 20
    assert [admission.admit(Request(15, begun, share=share)) for _ in range(2)] == [True, False]
    assert admission.is_blocked
    assert admission.admit(Request(15, begun, share=Share("other")))
    admission.release(share, 15)
    await turns()
    assert len(begun) == 1


def test_one_client_is_refused_in_messages_before_another_is() -> None:
    admission, greedy, modest = MessageAdmission(100), Share("greedy"), Share("modest")
    for _ in range(3):
        admission.admit(greedy, 25, is_announced=True)
    with pytest.raises(ServerBusy, match="75 of 75, the most for one client"):
        admission.admit(greedy, 1, is_announced=True)
    admission.admit(greedy, 12, is_announced=False)  # another one at the same address, say
    with pytest.raises(ServerBusy, match="87 of 87, the most for one client"):
        admission.admit(greedy, 1, is_announced=False)
    with pytest.raises(ServerBusy, match="87 of 100 are in use"):
        admission.admit(modest, 1, is_announced=True)
    admission.admit(modest, 13, is_announced=False)
    with pytest.raises(ServerBusy, match="100 of 100 are in use"):
        admission.admit(modest, 1, is_announced=False)
    admission.release(greedy, 25)
    assert (admission.in_flight_bytes, greedy.message_bytes, modest.message_bytes) == (75, 62, 13)


def test_a_lone_request_may_have_the_whole_bound() -> None:
    admission, share = MessageAdmission(100), Share()
    share.most_bytes = 50
    admission.admit(share, 100, is_announced=False)
    assert share.message_bytes == 100


def test_a_quota_bounds_the_bytes_and_the_requests_of_a_client() -> None:
    admission, share = MessageAdmission(1000), Share("small")
    share.most_bytes, share.most_requests = 2048, 1
    share.require_request()
    share.requests += 1
    with pytest.raises(QuotaExceeded, match="1 requests of this token are under way"):
        share.require_request()
    admission = MessageAdmission(2**20)
    admission.admit(share, 1024, is_announced=False)
    with pytest.raises(QuotaExceeded, match="needs 2KiB; this token has 1KiB in flight of at most 2KiB"):
        admission.admit(share, 2048, is_announced=False)
    assert admission.in_flight_bytes == share.message_bytes == 1024
