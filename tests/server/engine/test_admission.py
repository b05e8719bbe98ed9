"""Admission of requests in shared memory, without a server."""

from __future__ import annotations

import asyncio

import pytest
from typing_extensions import override

from mse_grad_server.engine.admission import SharedAdmission, Waiting
from mse_grad_server.errors import ServerBusy


class Request(Waiting):
    def __init__(self, size_bytes: int, begun: list[Request]) -> None:
        self.size_bytes = size_bytes
        self._begun = begun

    @override
    def begin(self) -> None:
        self._begun.append(self)


async def test_of_many_requests_that_fit_some_begin_in_each_turn_of_the_loop() -> None:
    admission, begun = SharedAdmission(100, most_waiting=20), list[Request]()
    assert admission.admit(Request(100, begun))
    requests = [Request(1, begun) for _ in range(20)]
    assert not any(admission.admit(request) for request in requests)
    with pytest.raises(ServerBusy):
        admission.admit(Request(1, begun))
    admission.release(100)
    assert not begun, "a request begins inside of the end of another one"
    turns = []
    while len(begun) < 20:
        await asyncio.sleep(0)
        turns.append(len(begun))
    assert turns == [8, 16, 20]
    assert begun == requests
    assert admission.in_flight_bytes == 20


async def test_a_lone_request_larger_than_the_bound_begins_and_keeps_others_waiting() -> None:
    admission, begun = SharedAdmission(100, most_waiting=20), list[Request]()
    assert admission.admit(Request(1, begun))
    large, small = Request(1000, begun), Request(1, begun)
    assert not admission.admit(large)
    assert not admission.admit(small)
    for ended, waiting in ((1, large), (1000, small)):
        assert admission.is_blocked
        admission.release(ended)
        await asyncio.sleep(0)
        assert begun[-1] is waiting
    assert not admission.is_blocked
