"""Measurement of one load: threads that compute the same gradient one after another."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mse_grad.tensor import Array, DType
from mse_grad_client.client import MseGradClient

__all__ = ["Figures", "Load", "measure"]

_WARM_UP_CALLS = 3
_PROGRESS_S = 0.1
# predict, label, dout and the gradient.
_TENSORS = 4


@dataclass(frozen=True)
class Load:
    """Calls to measure.

    Attributes:
        dtype: Element type.
        reduction: Reduction of the loss.
        threads: Threads that call at the same time.
        duration_s: Time after which each thread starts no further call, in seconds.
        calls: Calls after which each thread ends earlier; None for no such bound.
    """

    dtype: DType
    reduction: str
    threads: int
    duration_s: float
    calls: int | None = None


@dataclass(frozen=True)
class Figures:
    """Result of one load at one size.

    Attributes:
        elements: Elements of each gradient.
        tensor_bytes: Bytes of each gradient.
        duration_s: Time from the start of the first call to the end of the last, in seconds.
        latencies_s: Time of each call in seconds, ascending.
    """

    elements: int
    tensor_bytes: int
    duration_s: float
    latencies_s: Array

    @property
    def calls(self) -> int:
        """Calls that were measured."""
        return len(self.latencies_s)

    @property
    def gradients_per_s(self) -> float:
        """Gradients per second, over all threads."""
        return self.calls / self.duration_s

    @property
    def bytes_per_s(self) -> float:
        """Bytes of predict, label, dout and gradient per second."""
        return self.gradients_per_s * _TENSORS * self.tensor_bytes

    @cached_property
    def latency_s(self) -> dict[str, float]:
        """Latency in seconds: "p50", "p90", "p99" and "max"."""
        p50, p90, p99 = np.percentile(self.latencies_s, (50, 90, 99))
        return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(self.latencies_s[-1])}


def measure(
    client: MseGradClient, elements: int, load: Load, *, on_progress: Callable[[float], None] | None = None
) -> Figures:
    """Returns the figures of gradients with so many elements; a few calls before are not counted.

    Args:
        client: Client of the server; all threads share it.
        elements: Elements of each gradient.
        load: The calls.
        on_progress: Called now and then with the seconds since the start.

    Raises:
        MseGradError: A call failed.
    """
    random = np.random.default_rng(0)
    predict, label, dout = (random.standard_normal(elements).astype(load.dtype.numpy) for _ in range(3))
    for _ in range(_WARM_UP_CALLS):
        client.compute(predict, label, dout, load.reduction)
    stopped = threading.Event()

    def call_repeatedly() -> array[float]:
        out = np.empty_like(predict)
        latencies_s = array("d")
        end = begin = time.perf_counter()
        while not stopped.is_set() and begin < started + load.duration_s and len(latencies_s) != load.calls:
            client.compute(predict, label, dout, load.reduction, out=out)
            end = time.perf_counter()
            latencies_s.append(end - begin)
            begin = end
        return latencies_s

    started = time.perf_counter()
    with ThreadPoolExecutor(load.threads, thread_name_prefix="bench") as executor:
        try:
            pending = [executor.submit(call_repeatedly) for _ in range(load.threads)]
            while wait(pending, _PROGRESS_S, ALL_COMPLETED).not_done:
                if on_progress:
                    on_progress(time.perf_counter() - started)
            latencies_s = np.concatenate([np.asarray(future.result()) for future in pending])
        finally:
            stopped.set()
    duration_s = time.perf_counter() - started
    return Figures(elements, predict.nbytes, duration_s, np.sort(latencies_s))
