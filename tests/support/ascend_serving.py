"""The whole server on the simulated device, in the event loop of a test."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mse_grad_server.app import Server
from mse_grad_server.clock import LoopClock
from mse_grad_server.config import Settings
from mse_grad_server.log import open_log
from support.ascend_backend import DEVICE
from support.ascend_runtime import AscendRuntime
from support.in_process import FakeBackend, Serving

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
    """Runs a server for the body; at its end nothing may be in flight."""
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
