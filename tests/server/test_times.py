from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mse_grad_server.times import Times


def test_a_duration_counts_up_to_every_bound_that_it_does_not_exceed() -> None:
    times = Times((0.5, 2))
    for seconds in (0.5, 0.75, 3.0):
        times.count(seconds)
    assert times.snapshot() == ([("0.5", 1), ("2.0", 2), ("+Inf", 3)], 4.25)


def test_threads_lose_no_duration() -> None:
    times = Times()
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda _: times.observe(1.0), range(4000)):
            pass
    buckets, sum_s = times.snapshot()
    assert (buckets[-1], sum_s) == (("+Inf", 4000), 4000)
