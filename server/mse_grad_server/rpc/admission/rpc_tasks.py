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
| 1.83.2 | _handle_exceptions | the same |

With another version the server looks for the same name. If it does not find it, the log says so once, and an abandoned
RPC stays until its connection ends.

gRPC accepts RPCs in one task of a server. If it fails, for lack of memory or by a fault of gRPC, the process still
listens and answers nothing more, so it has to end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from functools import cache, partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import grpc

from mse_grad_server.process.exits import StartError

__all__ = ["end_rpc", "on_rpc_end", "watch_rpc_tasks"]

_Task: TypeAlias = "asyncio.Task[Any]"

# Name of the coroutine that gRPC runs in the inner task.
_INNER = "_handle_exceptions"
# Name of the coroutine in which gRPC accepts RPCs.
_ACCEPTING = "_server_main_loop"
# Name of the error with which that one ends when the server stops.
_STOPPED = "_RequestCallError"

_outer_of: WeakKeyDictionary[_Task, _Task] = WeakKeyDictionary()


def watch_rpc_tasks(lost: asyncio.Future[StartError]) -> None:
    """Makes the running event loop remember the outer task of each inner task.

    Args:
        lost: Completes when gRPC fails to accept RPCs.
    """
    asyncio.get_running_loop().set_task_factory(partial(_new_task, lost))


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
    lost: asyncio.Future[StartError],
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    **options: Any,
) -> _Task:
    task: _Task = asyncio.Task(coroutine, loop=loop, **options)
    name = getattr(coroutine, "__name__", "")
    if name == _INNER:
        outer = asyncio.current_task(loop)
        if outer is not None:
            _outer_of[task] = outer
    elif name == _ACCEPTING:
        task.add_done_callback(partial(_accepts_no_more, lost))
    return task


def _accepts_no_more(lost: asyncio.Future[StartError], task: _Task) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and type(error).__name__ != _STOPPED and not lost.done():
        logging.getLogger(__name__).error("gRPC accepts no further calls, so the process ends: %r", error)
        lost.set_result(StartError("gRPC accepts no further calls"))


@cache
def _warn_of_unknown_tasks() -> None:
    logging.getLogger(__name__).warning(
        "grpcio %s runs RPCs in tasks that the server does not know: an RPC whose answers nobody reads stays until its "
        "connection ends",
        grpc.__version__,
    )
