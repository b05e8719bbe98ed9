from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from mse_grad_server.phases import Phases

NAMES = ("queue", "decode", "copy_in", "kernel", "copy_out", "encode")


def registry_of(phases: Phases) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(phases)
    return registry


def test_a_duration_is_in_the_buckets_that_it_does_not_exceed() -> None:
    phases = Phases()
    for seconds in (0.0, 0.00005, 0.0003, 60.0, 61.0):
        phases.kernel.count(seconds)
    registry = registry_of(phases)
    for le, count in (("5e-05", 2), ("0.0002", 2), ("0.001", 3), ("10.0", 3), ("60.0", 4), ("+Inf", 5)):
        assert registry.get_sample_value("mse_grad_phase_seconds_bucket", {"phase": "kernel", "le": le}) == count
    assert registry.get_sample_value("mse_grad_phase_seconds_count", {"phase": "kernel"}) == 5
    assert registry.get_sample_value("mse_grad_phase_seconds_sum", {"phase": "kernel"}) == 121.00035


def test_every_phase_is_there_from_the_start() -> None:
    page = generate_latest(registry_of(Phases())).decode()
    assert [f'mse_grad_phase_seconds_count{{phase="{name}"}} 0.0' in page for name in NAMES] == [True] * len(NAMES)
