"""A short run over a slow network; a person judges its figures, not this test."""

from __future__ import annotations

import sys

import pytest

from benchmarks.distances import Network, measure

NETWORK = Network(0.02, loss=0.01, bytes_per_s=125e6)


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces need Linux")
def test_gradients_over_a_slow_network_are_right_and_no_faster_than_it() -> None:
    for found in measure(NETWORK, [1, 2**18], rounds=2):
        operands_s = 3 * 4 * found.elements / NETWORK.bytes_per_s
        for seconds in (found.direct_s, found.rpc_s):
            assert seconds >= NETWORK.round_trip_s + operands_s
