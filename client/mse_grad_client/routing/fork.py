"""Fork handlers, which keep clients alive across `os.fork`.

A gRPC channel that the parent has used hangs or crashes the child. So before a fork every client holds new requests
back, waits for those under way, and closes its channels; afterwards parent and child each connect again when they need
to. A fork waits for this, up to twice 5 s: a DataLoader that forks workers while gradients are computed waits too.

The handlers are registered with the first client of a process, not when the package is imported.

gRPC's core must not be shut down at a fork. It shuts down in a separate thread when the last channel closes: a fork
in the middle of that leaves the child with a lock that no thread releases (3 of 100 forks). So one channel that never
connects stays open.

With GRPC_ENABLE_FORK_SUPPORT gRPC has its own handlers. They stop its threads, without which no channel closes, so
they must run after ours. Python runs the handlers registered last first, and gRPC registers with its first channel.
"""

from __future__ import annotations

import os
import weakref
from functools import cache

import grpc

from mse_grad_client.interrupts import Latch
from mse_grad_client.routing.transport import Transport

__all__ = ["watch"]

# A fork waits this long for requests under way, and again for channels that close. Requests that take longer are sent
# again afterwards.
_PAUSE_TIMEOUT_S = 5.0

_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
_paused: list[Transport] = []
# Set while no fork is under way. A client made during one would be in the middle of its first call at the fork.
_is_over = Latch()
_is_over.set()


def watch(transport: Transport) -> None:
    """Pauses `transport` at each fork, as long as it lives; waits for the end of a fork that is under way."""
    _begin()
    _is_over.wait(_PAUSE_TIMEOUT_S)  # not for ever: this may be a signal handler of the thread that forks
    _transports.add(transport)


@cache
def _begin() -> grpc.Channel:
    channel = grpc.insecure_channel("unix:/never-connected")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
    return channel


def _before() -> None:
    _is_over.clear()
    _paused.extend(_transports)
    for transport in _paused:
        transport.pause(_PAUSE_TIMEOUT_S)


def _after_in_parent() -> None:
    for transport in _paused:
        transport.resume()
    _paused.clear()
    _is_over.set()


def _after_in_child() -> None:
    for transport in _paused:
        transport.reset_after_fork()
    _paused.clear()
    _is_over.set()
