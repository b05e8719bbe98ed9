"""Tasks in which gRPC runs an RPC, and the forced end of an RPC whose caller reads nothing.

gRPC has no function with which a server ends an RPC at once. The status waits behind the messages written before. If
the client opens no flow-control window, that is forever: the messages stay in memory, and no counter knows of them.

An RPC runs in two tasks of the event loop. The outer one waits for the caller to close or cancel, and holds the call of
gRPC's core; the inner one runs the handler. When both are cancelled, gRPC releases the call and its memory, and resets
the stream (RST_STREAM).

The inner task is recognised by the name of its coroutine, which is internal to gRPC. Tested, on Linux with Python 3.11:

| grpcio | name | reset |
|---|---|---|
| 1.76.0 | _handle_exceptions | of each call; of the last call when the next one arrives |
| 1.85.3 | _handle_exceptions | the same; of the first call of a server only when its connection ends |

With another version the server looks for the same name. If it does not find it, the log says so once, and an abandoned
RPC stays until its connection ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from functools import cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import grpc

__all__ = ["end_rpc", "on_rpc_end", "watch_rpc_tasks"]

_Task: TypeAlias = "asyncio.Task[Any]"

# Name of the coroutine that gRPC runs in the inner task.
_INNER = "_handle_exceptions"

_outer_of: WeakKeyDictionary[_Task, _Task] = WeakKeyDictionary()


def watch_rpc_tasks() -> None:
    """Makes the running event loop remember the outer task of each inner task."""
    asyncio.get_running_loop().set_task_factory(_new_task)


def on_rpc_end(callback: Callable[[], None]) -> None:
    """Calls `callback` when gRPC has sent everything of the current RPC, or has abandoned it.

    gRPC's own `context.add_done_callback` would keep the context alive in a reference cycle.
    """
    inner = asyncio.current_task()
    assert inner is not None
    if inner not in _outer_of:
        _warn_of_unknown_tasks()
    inner.add_done_callback(lambda _: callback())


def end_rpc(inner: _Task) -> None:
    """Ends the RPC whose handler ran in the task `inner`, without a status for its caller."""
    outer = _outer_of.pop(inner, None)
    inner.cancel()
    if outer is not None:
        outer.cancel()


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> _Task:
    task: _Task = asyncio.Task(coroutine, loop=loop, **options)
    if getattr(coroutine, "__name__", "") == _INNER:
        outer = asyncio.current_task(loop)
        if outer is not None:
            _outer_of[task] = outer
    return task


@cache
def _warn_of_unknown_tasks() -> None:
    logging.getLogger(__name__).warning(
        "grpcio %s runs RPCs in tasks that the server does not know: an RPC whose answers nobody reads stays until its "
        "connection ends",
        grpc.__version__,
    )
