from __future__ import annotations

import pytest

from benchmarks.chaos import RIGHT, chaos


@pytest.mark.timeout(300)
def test_random_faults_of_the_device_give_right_or_typed_answers() -> None:
    report = chaos(6.0, seed=3)
    print(report)
    assert report.broken == []
    assert report.ends[RIGHT] > 0
    assert {"skip", "zero", "half", "last"} & set(report.faults)
