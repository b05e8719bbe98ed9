from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from mse_grad_server.metrics.collectors import DeadlineMargin, DurationHistogram, Phases, Traffic

PHASES = ("queue", "decode", "copy_in", "kernel", "copy_out", "encode")


def registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_a_duration_counts_in_every_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = DurationHistogram((0.5, 2))
    for seconds in (0.5, 0.75, 3.0):
        histogram.observe_unlocked(seconds)
    assert histogram.snapshot() == ([("0.5", 1), ("2.0", 2), ("+Inf", 3)], 4.25)


def test_no_duration_is_lost_between_threads() -> None:
    histogram = DurationHistogram()
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda _: histogram.observe(1.0), range(4000)):
            pass
    buckets, sum_s = histogram.snapshot()
    assert (buckets[-1], sum_s) == (("+Inf", 4000), 4000)


def test_the_phases_are_one_histogram_with_a_label() -> None:
    phases = Phases()
    for seconds in (0.0, 0.00005, 0.0003, 60.0, 61.0):
        phases.kernel.observe_unlocked(seconds)
    registry = registry_of(phases)
    for le, count in (("5e-05", 2), ("0.0002", 2), ("0.001", 3), ("10.0", 3), ("60.0", 4), ("+Inf", 5)):
        assert registry.get_sample_value("mse_grad_phase_seconds_bucket", {"phase": "kernel", "le": le}) == count
    assert registry.get_sample_value("mse_grad_phase_seconds_count", {"phase": "kernel"}) == 5
    assert registry.get_sample_value("mse_grad_phase_seconds_sum", {"phase": "kernel"}) == 121.00035


def test_every_phase_is_exported_from_the_start() -> None:
    page = generate_latest(registry_of(Phases())).decode()
    assert [name for name in PHASES if f'mse_grad_phase_seconds_count{{phase="{name}"}} 0.0' not in page] == []


def test_the_deadline_margin_is_one_histogram() -> None:
    margin = DeadlineMargin()
    registry = registry_of(margin)
    for seconds in (0.0, 0.5, 200.0):
        margin.histogram.observe_unlocked(seconds)
    for le, count in (("0.001", 1), ("1.0", 2), ("100.0", 2), ("+Inf", 3)):
        assert registry.get_sample_value("mse_grad_deadline_margin_seconds_bucket", {"le": le}) == count
    assert registry.get_sample_value("mse_grad_deadline_margin_seconds_sum") == 200.5


def test_each_transport_counts_elements_and_bytes_in_both_directions() -> None:
    traffic = Traffic()
    registry = registry_of(traffic)
    for factor, transferred in ((1, traffic.stream), (10, traffic.unary), (100, traffic.shared_memory)):
        transferred.count(3 * factor, factor, 12 * factor, 4 * factor)
        transferred.count(3 * factor, factor, 12 * factor, 4 * factor)
    for factor, transport in ((1, "stream"), (10, "unary"), (100, "shared_memory")):
        for unit, direction, count in (
            ("elements", "in", 6),
            ("elements", "out", 2),
            ("bytes", "in", 24),
            ("bytes", "out", 8),
        ):
            labels = {"direction": direction, "transport": transport}
            found = registry.get_sample_value(f"mse_grad_transferred_{unit}_total", labels)
            assert found == count * factor
