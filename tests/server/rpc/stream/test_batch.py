from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from mse_grad.codec import decode_stream_response
from mse_grad_server.backends.base import Gradient
from mse_grad_server.backends.progress import Phase
from mse_grad_server.errors import BackendError, DeadlineExceeded, DeviceUnavailable
from mse_grad_server.metrics.recorder import Origin
from mse_grad_server.rpc.request_rules import check_header
from mse_grad_server.rpc.stream.batch import Batch
from mse_grad_server.rpc.stream.open_request import OpenRequest
from support.server.fakes import FakeBackend
from support.server.raw_stream import chunk, gradient, header


def open_request(id: int, count: int, *, deadline_s: float = math.inf, **fields: Any) -> OpenRequest:
    work = check_header(header(id, (count,), **fields))
    return OpenRequest(id, Origin(f"r{id}"), work, None, 0, 0.0, deadline_s, 0.0)


def filled(*requests: OpenRequest) -> Batch:
    batch = Batch()
    for request in requests:
        batch.add(request, chunk(request.id, 0, [float(request.id)] * request.work.count), request.work.count)
    return batch


def answers(message: bytes) -> dict[int, bytes]:
    return {result.id: bytes(result.y) for result in decode_stream_response(message).results}


def test_each_chunk_is_answered_by_its_gradient() -> None:
    batch = filled(open_request(1, 3), open_request(2, 2))
    message = batch.compute(FakeBackend().compute_all, lambda: 0.0)
    assert answers(message) == {1: gradient([1.0] * 3).tobytes(), 2: gradient([2.0] * 2).tobytes()}
    assert [(request.id, n) for request, n in batch.answered] == [(1, 3), (2, 2)]
    sizes = batch.in_message
    assert (sizes.operand_elements, sizes.operand_bytes) == (15, 60)
    assert (sizes.gradient_elements, sizes.gradient_bytes) == (5, 20)


def test_the_deadline_is_checked_before_computing() -> None:
    backend = FakeBackend()
    late = open_request(1, 3, deadline_s=5.0)
    batch = filled(late, open_request(2, 2, deadline_s=5.1))
    assert set(answers(batch.compute(backend.compute_all, lambda: 5.0))) == {2}
    assert backend.computed_sizes == [2]
    ((failed, error),) = batch.failures
    assert failed is late
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "queued"


def times(*times_s: float) -> Callable[[], float]:
    """Returns a clock that shows these times one after another, and then the last one."""
    left = list(times_s)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_in_a_thread_the_deadline_is_checked_again_before_the_kernel() -> None:
    backend = FakeBackend()
    late = open_request(1, 3, deadline_s=5.0)
    batch = filled(late, open_request(2, 2))
    batch.enqueued(0.0)
    assert late.phase is Phase.QUEUED
    assert set(answers(batch.compute(backend.compute_all, times(4.0, 5.0)))) == {2}
    assert backend.computed_sizes == [2]
    ((failed, error),) = batch.failures
    assert failed is late
    assert isinstance(error, DeadlineExceeded)
    assert (error.phase, late.phase) == ("encode", Phase.KERNEL)


def test_in_a_thread_a_request_that_ends_meanwhile_is_dropped_before_its_kernel() -> None:
    first, second = open_request(1, 3), open_request(2, 2)

    class Ending(FakeBackend):
        @override
        def compute(self, gradient: Gradient) -> None:
            super().compute(gradient)
            second.is_open = False

    backend = Ending()
    batch = filled(first, second)
    batch.enqueued(0.0)
    assert answers(batch.compute(backend.compute_all, lambda: 0.0)) == {1: gradient([1.0] * 3).tobytes()}
    assert backend.computed_sizes == [3, 3]
    assert batch.failures == []


def test_a_request_that_has_ended_meanwhile_is_left_out() -> None:
    ended = open_request(1, 3)
    ended.is_open = False
    batch = filled(ended)
    assert batch.compute(FakeBackend().compute_all, lambda: 0.0) == b""
    assert (batch.answered, batch.failures) == ([], [])


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_the_neighbours_of_a_failed_request_are_answered(failing: int) -> None:
    backend = FakeBackend()
    backend.error = BackendError("broken")
    backend.fails_on = lambda predict: bool(predict[0] == failing)
    requests = {id: open_request(id, 2) for id in (1, 2, 3)}
    batch = filled(*requests.values())
    message = batch.compute(backend.compute_all, lambda: 0.0)
    assert answers(message) == {id: gradient([float(id)] * 2).tobytes() for id in requests if id != failing}
    assert batch.failures == [(requests[failing], backend.error)]


def test_a_request_without_elements_is_answered_without_computing() -> None:
    batch = Batch()
    request = open_request(1, 0)
    batch.add_empty(request)
    backend = FakeBackend()
    assert answers(batch.compute(backend.compute_all, lambda: 0.0)) == {1: b""}
    assert (backend.computed_sizes, batch.answered) == ([], [(request, 0)])


def test_operands_need_not_be_aligned() -> None:
    batch = Batch()
    request = open_request(1, 3)
    whole = chunk(1, 0, [1.0, 2.0, 3.0])
    for name in ("predict", "label", "dout"):
        shifted = memoryview(b"\0" + bytes(getattr(whole, name)))[1:]
        setattr(whole, name, shifted)
    assert not np.frombuffer(whole.predict, np.float32).flags.aligned
    batch.add(request, whole, 3)
    message = batch.compute(FakeBackend().compute_all, lambda: 0.0)
    assert answers(message) == {1: gradient([1.0, 2.0, 3.0]).tobytes()}


def test_parts_have_the_chunks_in_order_and_enough_bytes_each() -> None:
    batch = filled(*(open_request(id, 2) for id in range(1, 6)))
    batch.add_empty(open_request(6, 0))
    parts = list(batch.parts(16))
    assert [part.in_message.gradient_bytes for part in parts] == [16, 16, 8]
    messages = [part.compute(FakeBackend().compute_all, lambda: 0.0) for part in parts]
    assert [list(answers(message)) for message in messages] == [[1, 2], [3, 4], [5, 6]]
    assert sum(part.in_message.operand_bytes for part in parts) == batch.in_message.operand_bytes


def test_the_fallback_computes_all_of_a_batch_that_the_device_cannot_and_says_so() -> None:
    device, fallback = FakeBackend(), FakeBackend()
    device.error, device.fails_on = DeviceUnavailable("it rests"), lambda predict: predict[0] == 2.0
    batch = filled(open_request(1, 3), open_request(2, 2))
    message = batch.compute(device.compute_all, lambda: 0.0, fallback=fallback.compute_all)
    assert answers(message) == {1: gradient([1.0] * 3).tobytes(), 2: gradient([2.0] * 2).tobytes()}
    assert [result.fallback for result in decode_stream_response(message).results] == [True, True]
    assert batch.failures == []


def test_the_fallback_is_for_a_device_that_is_unavailable_and_for_no_other_error() -> None:
    device, fallback = FakeBackend(), FakeBackend()
    device.error = BackendError("refused")
    batch = filled(open_request(1, 3))
    assert batch.compute(device.compute_all, lambda: 0.0, fallback=fallback.compute_all) == b""
    assert fallback.computed_sizes == []
    assert [error for _, error in batch.failures] == [device.error]
