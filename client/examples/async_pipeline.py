"""Async pipeline: batches are read, computed and used by tasks at the same time.

`make serve` in another terminal, then `.venv/bin/python client/examples/async_pipeline.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from mse_grad_client import AsyncMseGradClient, DeadlineExceeded

BATCHES = 50
ELEMENTS = 4096

Array = np.ndarray[Any, np.dtype[np.float32]]


async def batches() -> AsyncIterator[tuple[Array, Array, float]]:
    """Yields predict, label and dout of each batch, as a source with its own waits would."""
    generator = np.random.default_rng(7)
    for _ in range(BATCHES):
        predict, label = generator.random((2, ELEMENTS), np.float32)
        yield predict, label, 1.0
        await asyncio.sleep(0)


async def main(address: str = "127.0.0.1:50051") -> None:
    """Computes with the server at `address`; raises AssertionError if a gradient is wrong."""
    async with AsyncMseGradClient(address) as client:
        await client.wait_ready(timeout_s=30)

        # In order, and as many under way as the server needs to be busy.
        total = 0.0
        async for gradient in client.compute_many(batches(), "mean"):
            total += float(np.abs(gradient).sum())
        print(f"{BATCHES} batches in order; mean |gradient| summed: {total:.3f}")

        # Each as soon as it is there: requests of tasks that run at the same time share messages.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.compute(*batch)) async for batch in batches()]
        again = sum(float(np.abs(task.result()).sum()) for task in tasks)
        print(f"{len(tasks)} tasks; the same sum: {again:.3f}")
        assert again == total

        # A task that is cancelled, here by a timeout of its own, cancels its request on the server.
        large = np.ones(4_000_000, np.float32)
        try:
            async with asyncio.timeout(0.0):
                await client.compute(large, large, 1.0)
        except TimeoutError:
            print("cancelled")
        try:
            await client.compute(large, large, 1.0, timeout_s=1e-6)
        except DeadlineExceeded as late:
            print(f"too late: {type(late).__name__}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
