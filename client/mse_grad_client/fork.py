"""Keeps clients alive across `os.fork`.

A gRPC channel that the parent used hangs or crashes the child. So before a fork every client holds new requests back,
waits for those under way, and closes its channel; afterwards parent and child each connect again when they need to.
Platforms without fork have nothing to do here.

gRPC's core must not be shut down then, which it is in a thread of its own when the last channel closes: a fork in the
middle of it found a lock taken that nobody gives back (3 of 100 forks). So one channel that never connects stays.
"""

from __future__ import annotations

import os
import weakref
from functools import cache

import grpc

from mse_grad_client.transport import Transport

__all__ = ["watch"]

# A fork waits so long for what is under way; what takes longer is sent again afterwards.
_PAUSE_TIMEOUT_S = 5.0

_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
_paused: list[Transport] = []


def watch(transport: Transport) -> None:
    """Includes `transport` in what is done around a fork, for as long as it lives."""
    _keep_core()
    _transports.add(transport)


@cache
def _keep_core() -> grpc.Channel:
    return grpc.insecure_channel("unix:/never-connected")


def _before() -> None:
    _paused.extend(_transports)
    for transport in _paused:
        transport.pause(_PAUSE_TIMEOUT_S)


def _after_in_parent() -> None:
    for transport in _paused:
        transport.resume()
    _paused.clear()


def _after_in_child() -> None:
    for transport in _paused:
        transport.reset_after_fork()
    _paused.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
