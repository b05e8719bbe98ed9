from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType, Reduction
from mse_grad_server.backends.base import Gradient, GradientSpec
from mse_grad_server.backends.progress import Phase
from mse_grad_server.engine.verification import verify
from mse_grad_server.errors import Cancelled, DeadlineExceeded, DeviceUnavailable
from mse_grad_server.process.timeline import Timeline
from support.npu.backend import Open, operands
from support.npu.runtime import AscendRuntime
from support.waiting import PATIENCE_S, holds_at_some_pace, wait_until

DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("reduction", Reduction, ids=lambda reduction: reduction.text)
@pytest.mark.parametrize("scalar_dout", [False, True], ids=["full", "scalar"])
def test_every_kind_of_gradient_has_the_bits_of_the_formula(
    open_backend: Open, dtype: DType, reduction: Reduction, scalar_dout: bool
) -> None:
    with open_backend() as opened:
        for elements in (1, 7, 33, 511, 8193):
            opened.check(elements, dtype=dtype, reduction=reduction, scalar_dout=scalar_dout)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("elements", [16383, 16384, 16385, 200_001])
def test_a_tensor_larger_than_a_block_is_cut_and_its_mean_is_that_of_the_whole(
    open_backend: Open, dtype: DType, elements: int
) -> None:
    with open_backend() as opened:
        opened.check(elements, dtype=dtype)
        opened.check(elements, dtype=dtype, numel=10 * elements)
        opened.check(elements, dtype=dtype, reduction=Reduction.SUM, scalar_dout=True)


def test_more_blocks_than_slots_from_many_threads_come_out_right(open_backend: Open) -> None:
    with open_backend(slots=3, block_bytes=1 << 13) as opened, ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(opened.check, 5000 + n, seed=n) for n in range(40)]:
            done.result(timeout=PATIENCE_S)


def test_the_server_verifies_the_backend_as_any_other(open_backend: Open) -> None:
    with open_backend() as opened:
        assert verify(opened.backend) == len(DTYPES) * len(Reduction) * 2


def test_the_observer_receives_the_facts_of_the_device(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend() as opened:
        backend, facts = opened.backend, opened.witness.facts
        assert (backend.name, backend.device) == ("ascend", "Ascend910B3")
        assert FLOAT64 not in backend.dtypes
        assert facts["op_library"] == str(runtime.op_library)
        assert facts["kernel_hash"] == backend.kernel_hash
        assert len(backend.kernel_hash) == 64
    assert (backend.device, backend.kernel_hash) == ("", "")


def test_operands_at_any_address_are_computed(open_backend: Open) -> None:
    spec = GradientSpec(FLOAT32, Reduction.SUM, 1000, False)
    with open_backend() as opened:
        room = np.zeros(4 * 4000 + 4, np.uint8)
        arrays = [room[4000 * i + 1 : 4000 * (i + 1) + 1].view(np.float32) for i in range(4)]
        predict, label, dout, y = arrays
        predict[:], label[:], dout[:] = 3.0, 1.0, 0.5
        opened.backend.compute(Gradient(spec, predict, label, dout, y))
        np.testing.assert_array_equal(y, 2.0)


def test_a_backend_that_is_not_open_computes_nothing(open_backend: Open) -> None:
    with open_backend() as opened:
        pass
    with pytest.raises(DeviceUnavailable, match="not open"):
        opened.check(1)
    opened.backend.close()


def test_closing_waits_for_blocks_in_flight(open_backend: Open, runtime: AscendRuntime) -> None:
    with (
        open_backend() as opened,
        runtime.options(copy_in_us=20_000, pace=1),
        ThreadPoolExecutor(3) as threads,
    ):
        before = runtime.calls("aclrtMemcpyAsync")
        running = [threads.submit(opened.check, 1000, seed=seed) for seed in range(3)]
        deadline_s = time.monotonic() + PATIENCE_S
        while runtime.calls("aclrtMemcpyAsync") < before + 3:
            assert time.monotonic() < deadline_s
        opened.backend.close()
        for gradient in running:
            gradient.result(timeout=PATIENCE_S)


def test_a_deadline_ends_the_wait_and_the_slot_returns(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=3) as opened:

        def ends_before_its_kernel(pace: int) -> bool:
            runtime.restart_time()
            with runtime.options(kernel_us=400_000, pace=pace):
                with pytest.raises(DeadlineExceeded) as caught:
                    opened.check(1000, timeout_s=0.02)
                ended_first = runtime.accounts().busy_us["kernel"] == 0
                with pytest.raises(DeadlineExceeded) as at_once:
                    opened.check(1000, timeout_s=-1)
                assert at_once.value.phase == "queued"
            return ended_first and caught.value.phase == "kernel"

        assert holds_at_some_pace(ends_before_its_kernel)
        for seed in range(6):
            opened.check(1000, seed=seed)


class Watched:
    """A request that ends when it enters a phase."""

    deadline_s = math.inf

    def __init__(self, ends_in: Phase) -> None:
        self.is_open = True
        self.phases: list[Phase] = []
        self._ends_in = ends_in

    @property
    def phase(self) -> Phase:
        return self.phases[-1]

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.phases.append(phase)
        self.is_open = phase is not self._ends_in


@pytest.mark.parametrize("ends_in", [Phase.QUEUED, Phase.COPY_IN, Phase.COPY_OUT])
def test_a_gradient_that_nobody_waits_for_is_dropped_before_each_step(
    open_backend: Open, runtime: AscendRuntime, ends_in: Phase
) -> None:
    spec = GradientSpec(FLOAT32, Reduction.SUM, 1000, False)
    with open_backend(slots=3) as opened:
        launched = runtime.calls("aclnnMseLossGradPart")
        for _ in range(4):  # more than there are slots
            request, y = Watched(ends_in), np.zeros(1000, np.float32)
            given = Gradient(spec, *operands(spec, 1000), y, math.inf, None, request)
            with pytest.raises(Cancelled):
                opened.backend.compute(given)
            assert request.phases[-1] is ends_in
            assert not y.any()
        if ends_in is not Phase.COPY_OUT:
            assert runtime.calls("aclnnMseLossGradPart") == launched
        opened.check(1000)


def test_a_deadline_ends_the_wait_for_a_slot(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=3) as opened, ThreadPoolExecutor(3) as threads:

        def ends_before_a_kernel(pace: int) -> bool:
            with runtime.options(kernel_us=300_000, pace=pace):
                before = runtime.calls("aclnnMseLossGradPart")
                running = [threads.submit(opened.check, 1000, seed=seed) for seed in range(3)]
                wait_until(lambda: runtime.calls("aclnnMseLossGradPart") >= before + 3)
                try:
                    opened.check(1000, timeout_s=0.02)
                    ended_first = False
                except DeadlineExceeded:
                    ended_first = not any(gradient.done() for gradient in running)
                for gradient in running:
                    gradient.result(timeout=PATIENCE_S)
            return ended_first

        assert holds_at_some_pace(ends_before_a_kernel)


def test_a_long_tensor_keeps_no_caller_from_the_device(open_backend: Open, runtime: AscendRuntime) -> None:
    with open_backend(slots=3, block_bytes=1 << 13) as opened, ThreadPoolExecutor(1) as thread:
        opened.check(10)

        def others_end_first(pace: int) -> bool:
            with runtime.options(kernel_us=5000, pace=pace):
                before = runtime.calls("aclnnMseLossGradPart")
                long = thread.submit(opened.check, 100 * 2048)
                wait_until(lambda: runtime.calls("aclnnMseLossGradPart") >= before + 4)
                for _ in range(5):
                    opened.check(10)
                ended_first = not long.done()
                long.result(timeout=PATIENCE_S)
            return ended_first

        assert holds_at_some_pace(others_end_first)


def test_one_slow_caller_does_not_keep_the_others_from_the_device(open_backend: Open) -> None:
    spec = GradientSpec(FLOAT32, Reduction.MEAN, 1000, False)
    predict, label, dout = operands(spec, 1000)
    stop = threading.Event()
    with open_backend() as opened:

        def compute_on() -> None:
            y = np.empty(1000, np.float32)
            while not stop.is_set():
                opened.backend.compute(Gradient(spec, predict, label, dout, y))

        other = threading.Thread(target=compute_on)
        other.start()
        try:
            for seed in range(50):
                opened.check(777, seed=seed, timeout_s=5.0)
        finally:
            stop.set()
            other.join(PATIENCE_S)


def test_a_traced_gradient_gets_the_phases_of_each_block(open_backend: Open) -> None:
    ones = np.ones(1000, np.float32)
    timeline = Timeline(None, 0.0)
    with open_backend() as opened:
        spec = GradientSpec(FLOAT32, Reduction.SUM, ones.size, False)
        gradient = Gradient(spec, ones, ones, ones, np.empty_like(ones))._replace(timeline=timeline)
        assert opened.backend.compute_all([gradient]) is None
    assert [phase.name for phase in timeline.phases] == ["queue", "copy-in", "kernel", "copy-out"]
    for phase in timeline.phases:
        assert phase.began_s <= phase.ended_s
