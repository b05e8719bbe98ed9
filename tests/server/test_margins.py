from __future__ import annotations

from prometheus_client import CollectorRegistry

from mse_grad_server.margins import Margins


def test_what_was_left_of_the_time_is_one_histogram() -> None:
    registry, margins = CollectorRegistry(), Margins()
    registry.register(margins)
    for seconds in (0.0, 0.5, 200.0):
        margins.times.count(seconds)
    for le, count in (("0.001", 1), ("1.0", 2), ("100.0", 2), ("+Inf", 3)):
        assert registry.get_sample_value("mse_grad_deadline_margin_seconds_bucket", {"le": le}) == count
    assert registry.get_sample_value("mse_grad_deadline_margin_seconds_sum") == 200.5
