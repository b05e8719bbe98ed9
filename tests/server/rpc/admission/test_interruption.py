from __future__ import annotations

import asyncio

import pytest

from mse_grad_server.rpc.admission.interruption import Interruption


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def interrupted(*errors: BaseException | None) -> None:
    """A block that `set` ends with each of `errors` in one turn of the loop."""
    interruption = Interruption()
    with interruption:
        for error in errors:
            asyncio.get_running_loop().call_soon(interruption.set, error)
        await never()


async def test_an_error_that_is_set_is_raised_from_the_block() -> None:
    with pytest.raises(ZeroDivisionError):
        await interrupted(ZeroDivisionError())


async def test_without_an_error_the_block_ends_quietly_and_later_code_can_wait() -> None:
    await interrupted(None)
    await asyncio.wait_for(asyncio.sleep(0), 20)  # the task is not cancelled again


async def test_only_the_first_call_counts() -> None:
    with pytest.raises(ZeroDivisionError):
        await interrupted(ZeroDivisionError(), KeyError())


async def test_a_call_before_or_after_the_block_does_nothing() -> None:
    interruption = Interruption()
    interruption.set(ZeroDivisionError())
    with interruption:
        await asyncio.sleep(0)
    interruption.set(ZeroDivisionError())
    await asyncio.sleep(0)


async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    async def block() -> None:
        with Interruption():
            await never()

    task = asyncio.ensure_future(block())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
