"""The simulated runtime, and backends on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mse_grad_server.backends.ascend.backend import AscendBackend, AscendOptions
from mse_grad_server.backends.ascend.device.device import DeviceOptions
from support.npu.backend import DEVICE, Open, Opened, Witness
from support.npu.runtime import AscendRuntime
from support.npu.simulator import require_simulator
from support.waiting import PATIENCE_S


@pytest.fixture(scope="session")
def built_runtime() -> AscendRuntime:
    """The simulated runtime of this process."""
    return AscendRuntime(require_simulator())


@pytest.fixture
def runtime(built_runtime: AscendRuntime) -> Iterator[AscendRuntime]:
    """The simulated runtime with two devices; afterwards no resource may be left, and no rule may be broken."""
    before = built_runtime.accounts()
    with built_runtime.options(devices=2):
        yield built_runtime
        for thread in threading.enumerate():
            if thread.name == "ascend-device":
                thread.join(PATIENCE_S)
    after = built_runtime.accounts()
    assert after.living == before.living
    assert after.violations == before.violations


@pytest.fixture
def open_backend(runtime: AscendRuntime) -> Open:
    """Opens a backend for the `with`."""

    @contextmanager
    def opened(
        *, slots: int = 4, block_bytes: int = 1 << 16, most_kinds: int = 64, timing_every: int = 16,
        block_timeout_s: float = 5.0, hang_s: float = PATIENCE_S,
    ) -> Iterator[Opened]:  # fmt: skip
        witness = Witness()
        options = AscendOptions(
            runtime_folder=str(runtime.folder),
            op_library=str(runtime.op_library),
            device=DeviceOptions(DEVICE, slots, block_bytes, most_kinds, timing_every),
            block_timeout_s=block_timeout_s,
            hang_s=hang_s,
        )
        backend = AscendBackend(options, witness)
        backend.open()
        try:
            yield Opened(backend, witness)
        finally:
            backend.close()

    return opened
