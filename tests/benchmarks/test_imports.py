"""A short run of the benchmark of imports; a person judges its figures, not this test."""

from __future__ import annotations

import os

import pytest

from benchmarks.imports import seconds_of_imports


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this platform does not tell the time of one process")
def test_every_kind_of_process_has_a_time() -> None:
    assert set(seconds_of_imports(1)) == {"nothing", "dependencies", "SDK"}
