from __future__ import annotations

from prometheus_client import CollectorRegistry

from mse_grad_server.traffic import Traffic


def test_each_transport_counts_elements_and_bytes_each_way() -> None:
    registry, traffic = CollectorRegistry(), Traffic()
    registry.register(traffic)
    for factor, tally in ((1, traffic.stream), (10, traffic.unary), (100, traffic.shared_memory)):
        tally.count(3 * factor, factor, 12 * factor, 4 * factor)
        tally.count(3 * factor, factor, 12 * factor, 4 * factor)
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
