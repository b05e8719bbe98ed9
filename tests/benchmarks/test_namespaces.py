"""A short run of the benchmark of network namespaces; a person judges its figures, not this test."""

from __future__ import annotations

import sys

import pytest

from benchmarks.namespaces import ARRAYS, compare
from support.same_host.namespaces import require_network_namespaces


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces need Linux")
def test_clients_of_both_namespaces_share_memory_and_get_the_right_bits() -> None:
    require_network_namespaces()
    found = list(compare(elements=20_000, rounds=2))
    assert [each.arrays for each in found] == list(ARRAYS)
    assert all(each.own_s > 0 and each.other_s > 0 for each in found)
