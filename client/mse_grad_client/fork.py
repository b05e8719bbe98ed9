"""Keeps clients alive across `os.fork`.

A gRPC channel that the parent used hangs or crashes the child. So before a fork every client holds new requests back,
waits for those under way, and closes its channel; afterwards parent and child each connect again when they need to.
Platforms without fork have nothing to do here.
"""

from __future__ import annotations

import os
import weakref

from mse_grad_client.transport import Transport

__all__ = ["watch"]

# A fork waits so long for what is under way; what takes longer is sent again afterwards.
_PAUSE_TIMEOUT_S = 5.0

_transports: weakref.WeakSet[Transport] = weakref.WeakSet()
_paused: list[Transport] = []


def watch(transport: Transport) -> None:
    """Includes `transport` in what is done around a fork, for as long as it lives."""
    _transports.add(transport)


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
