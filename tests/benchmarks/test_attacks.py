from __future__ import annotations

import pytest

from benchmarks.attacks import ATTACKS, BOUNDS, WIRE_BYTES, attacked


def test_there_are_at_least_twelve_attacks() -> None:
    assert len(ATTACKS) >= 12


@pytest.mark.parametrize("name", ["health: bombs of 128 MiB", "stream: a wide shape", "unary: silent calls"])
def test_an_attack_costs_little_memory_and_log_and_others_get_their_gradients(name: str) -> None:
    figures = attacked(ATTACKS[name], aftermath_s=0.5)
    assert WIRE_BYTES / 2 < figures.sent_bytes <= WIRE_BYTES
    assert figures.memory_bytes <= BOUNDS.memory_bytes
    assert figures.log_bytes <= BOUNDS.log_bytes
    assert figures.answered > 10
    assert figures.kept.descriptors == 0
    # Generous bounds, for a machine that also does other work.
    assert figures.wait_s < 20
