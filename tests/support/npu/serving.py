"""The whole server on the simulated device, in the event loop of a test."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mse_grad_server.app import Server
from mse_grad_server.process.clock import LoopClock
from mse_grad_server.process.log import open_log
from mse_grad_server.settings.model import Settings
from support.npu.backend import DEVICE
from support.npu.runtime import AscendRuntime
from support.server.fakes import FakeBackend
from support.server.server_in_loop import Serving

__all__ = ["serving", "settings_of"]


def settings_of(runtime: AscendRuntime, **settings: Any) -> Settings:
    """Returns settings of a server on `runtime`."""
    values = {
        "listen": "127.0.0.1:0",
        "metrics_listen": "none",
        "backend": "ascend",
        "device": DEVICE,
        "device_slots": 3,
        "ascend_runtime_folder": str(runtime.folder),
        "ascend_op_library": str(runtime.op_library),
    }
    return Settings(**{**values, **settings})


@asynccontextmanager
async def serving(runtime: AscendRuntime, **settings: Any) -> AsyncIterator[Serving]:
    """Runs a server; when the `with` ends, nothing may be in flight."""
    effective = settings_of(runtime, **settings)
    log = io.StringIO()
    server = Server(effective, open_log("debug", "json", stream=log))
    served = Serving(server, effective, FakeBackend(), LoopClock(), log)
    await server.open()
    served.connect()
    try:
        yield served
    finally:
        await served.disconnect()
        await server.drain()
        assert await server.close()
    served.assert_nothing_in_flight()
