"""Programs with an AsyncMseGradClient, each for a process of its own: forks, interrupts, and ends.

  python -m support.client.async_programs NAME ADDRESS

A program prints "done" as its last line.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from mse_grad_client import AsyncMseGradClient, ClientClosed, ClientOptions, MseGradClient

__all__ = ["PROGRAMS"]

_COUNT = 1000


def _compute_in_new_loop(client: AsyncMseGradClient) -> None:
    async def compute() -> None:
        await _right(client)

    asyncio.run(compute())


async def _right(client: AsyncMseGradClient) -> None:
    predict = np.arange(_COUNT, dtype=np.float32)
    y = await client.compute(predict, predict + 1, 0.5, "sum", timeout_s=30)
    assert (y == -1).all()


async def _on_and_on(client: AsyncMseGradClient) -> None:
    while True:
        await _right(client)


def prefork(address: str) -> None:
    """A parent that has computed forks workers, as gunicorn with preloading does; all go on with the same client."""
    client = AsyncMseGradClient(address)
    _compute_in_new_loop(client)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            _compute_in_new_loop(client)
            os._exit(0)
        children.append(child)
    _compute_in_new_loop(client)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def fork_beside_tasks(address: str) -> None:
    """A task forks, while other tasks compute; the child computes in a loop of its own."""

    async def main() -> None:
        async with AsyncMseGradClient(address) as client:
            others = [asyncio.create_task(_on_and_on(client)) for _ in range(8)]
            await _right(client)
            for _ in range(3):
                process = multiprocessing.get_context("fork").Process(target=_compute_in_new_loop, args=(client,))
                process.start()
                while process.is_alive():
                    await _right(client)
                process.join()
                assert process.exitcode == 0
            for other in others:
                assert not other.done()
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(main())


def start_methods(address: str) -> None:
    """A client travels to processes of every start method, as to the workers of a DataLoader."""
    client = AsyncMseGradClient(address)
    _compute_in_new_loop(client)
    for method in multiprocessing.get_all_start_methods():
        context: Any = multiprocessing.get_context(method)  # its type lacks what all of them have
        process = context.Process(target=_compute_in_new_loop, args=(client,))
        process.start()
        process.join()
        assert process.exitcode == 0, method


def exit_in_the_middle(address: str) -> None:
    """The interpreter ends while tasks of a thread's loop compute, and no client is closed: its end closes it."""
    client = AsyncMseGradClient(address)
    begun = threading.Event()

    async def until_closed() -> None:
        with suppress(ClientClosed):
            await _on_and_on(client)

    async def main() -> None:
        for _ in range(8):
            asyncio.get_running_loop().create_task(until_closed())
        await _right(client)
        begun.set()
        await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    begun.wait()


def never_closed(address: str) -> None:
    """A loop ends with a client that nobody closes."""
    _compute_in_new_loop(AsyncMseGradClient(address))
    _compute_in_new_loop(AsyncMseGradClient(address, options=ClientOptions(shared_memory=False)))
    _compute_in_new_loop(AsyncMseGradClient(address, options=ClientOptions(shared_memory=False, direct=False)))


def control_c(address: str) -> None:
    """Ctrl-C ends `asyncio.run` with calls under way; the client then computes in another loop."""
    client = AsyncMseGradClient(address)

    async def main() -> None:
        await _right(client)
        others = [asyncio.create_task(_on_and_on(client)) for _ in range(8)]
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.gather(*others)

    for _ in range(5):
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            _compute_in_new_loop(client)
        else:
            raise AssertionError("no interrupt came")


def interrupt_at_any_moment(address: str) -> None:
    """A signal handler raises at random moments in the middle of the client.

    Not in the middle of asyncio: its own handler of SIGINT raises nowhere, because the loop would not survive that.
    """
    client = AsyncMseGradClient(address)
    generator = np.random.default_rng(5)

    def set_timer() -> None:
        signal.setitimer(signal.ITIMER_REAL, float(generator.uniform(0.0001, 0.005)))

    def handler(number: int, frame: Any) -> None:
        if str(frame.f_globals.get("__name__")).startswith("mse_grad"):
            raise KeyboardInterrupt
        set_timer()

    signal.signal(signal.SIGALRM, handler)
    for _ in range(20):
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(_on_and_on(client)) for _ in range(4)]
        set_timer()
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            loop.run_until_complete(asyncio.wait_for(_right(client), 30))
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        for task in tasks:
            assert task.cancelled() or isinstance(task.exception(), KeyboardInterrupt), task
        loop.close()


def notebook(address: str) -> None:
    """Both clients in the cells of a notebook, whose loop goes on: the blocking one blocks it, and no more."""

    async def cells() -> None:
        with MseGradClient(address) as blocking:
            client = AsyncMseGradClient(address)
            for _ in range(3):
                await _right(client)
                predict = np.arange(_COUNT, dtype=np.float32)
                assert (blocking.compute(predict, predict + 1, 0.5, "sum") == -1).all()
            await client.close()

    asyncio.run(cells())


PROGRAMS = {
    program.__name__: program
    for program in (
        prefork,
        fork_beside_tasks,
        start_methods,
        exit_in_the_middle,
        never_closed,
        control_c,
        interrupt_at_any_moment,
        notebook,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
    print("done", flush=True)
