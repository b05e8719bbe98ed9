"""Reports of the free memory of a device."""

from __future__ import annotations

import pytest

from mse_grad_server.backends.ascend import device_thread
from support.npu.backend import Open
from support.npu.runtime import AscendRuntime
from support.waiting import PATIENCE_S, wait_until

TOTAL_BYTES = 2**30


def test_it_is_reported_at_the_start_and_again_while_idle(
    open_backend: Open, runtime: AscendRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_thread, "_MEMORY_QUERY_S", 0.01)
    with runtime.options(memory_bytes=TOTAL_BYTES), open_backend() as opened:
        witness = opened.witness
        assert witness.total_bytes == TOTAL_BYTES
        assert 0 < witness.free_bytes[0] <= TOTAL_BYTES - witness.device_bytes
        wait_until(lambda: len(witness.free_bytes) > 2)


def test_a_device_that_does_not_report_it_still_computes(open_backend: Open, runtime: AscendRuntime) -> None:
    with runtime.faults("aclrtGetMemInfo code=207000 times=0"), open_backend() as opened:
        opened.check(1000, timeout_s=PATIENCE_S)
        (failure,) = opened.witness.failures
        assert opened.witness.free_bytes == []
        assert opened.witness.rungs == []
    assert "aclrtGetMemInfo" in str(failure)
