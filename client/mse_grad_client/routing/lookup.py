"""Lookup of the names in a target, in a thread of its own: the system's may hang for many seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from mse_grad_client.interrupts import Latch
from mse_grad_client.routing.address import grpc_target, host_and_port
from mse_grad_client.routing.target import Resolve, Server, Target

__all__ = ["Lookup"]


class Lookup:
    """The servers of a target: each address as it stands, each name looked up again and again.

    Belongs to the thread of discovery, except `stop`.

    Args:
        target: The target.
        resolve: Looks up a name.
        is_proxied: Whether connections to an address go through a proxy. The proxy looks its name up itself, so that
            the name is one server.
        timeout_s: How long `servers` waits for all lookups. One that takes longer goes on, and a later call of
            `servers` takes its result.
        now: The clock.

    Attributes:
        errors: Name -> why its last lookup failed.
    """

    def __init__(
        self,
        target: Target,
        resolve: Resolve,
        *,
        is_proxied: Callable[[str], bool],
        timeout_s: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.errors: dict[str, str] = {}
        self._target = target
        self._resolve = resolve
        self._is_proxied = is_proxied
        self._timeout_s = timeout_s
        self._now = now
        self._found: dict[str, tuple[str, ...]] = {}
        self._running: dict[str, _Running] = {}
        self._is_stopped = False

    def servers(self) -> tuple[Server, ...]:
        """Looks every name up, and returns the servers in the order of the target, each address once.

        A name whose lookup fails keeps the addresses found last.
        """
        names = [address for address, is_name in self._target.entries if is_name and not self._is_proxied(address)]
        started = [self._start(name) for name in names if not self._is_stopped]
        give_up_s = self._now() + self._timeout_s
        for running in started:
            if running.done.wait(max(0.0, give_up_s - self._now())):
                self._take(running)
            else:
                self.errors[running.name] = f"its lookup took more than {self._timeout_s:g} s"
        found: dict[str, Server] = {}
        for address, _ in self._target.entries:
            for each in self._found.get(address, ()) if address in names else (address,):
                found.setdefault(each, Server(each, address))
        return tuple(found.values())

    def stop(self) -> None:
        """Ends the waits of `servers`, now and later."""
        self._is_stopped = True
        for running in list(self._running.values()):
            running.done.set()

    def _start(self, name: str) -> _Running:
        running = self._running.get(name)
        if running is None or running.is_taken:
            running = self._running[name] = _Running(name)
            thread = threading.Thread(target=running.run, args=(self._resolve,), name="mse-grad-lookup", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system starts no further thread now
                running.error = str(error)
                running.done.set()
        return running

    def _take(self, running: _Running) -> None:
        running.is_taken = True
        if running.error:
            self.errors[running.name] = running.error
        else:
            self.errors.pop(running.name, None)
            self._found[running.name] = running.addresses


class _Running:
    """One lookup.

    Attributes:
        name: The name, "host:port".
        addresses: Its result, once it is done.
        error: Why it failed; "" if it did not.
        is_taken: Whether its result was taken.
        done: Set at its end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: tuple[str, ...] = ()
        self.error = "its lookup was stopped"
        self.is_taken = False
        self.done = Latch()

    def run(self, resolve: Resolve) -> None:
        try:
            self.addresses = _checked(resolve(*host_and_port(self.name)))
            self.error = "" if self.addresses else "it has no address"
        except Exception as error:  # noqa: BLE001 - `resolve` is the user's; the next round tries it again
            self.error = str(error) or type(error).__name__
        finally:
            self.done.set()


def _checked(addresses: Sequence[str]) -> tuple[str, ...]:
    for address in addresses:
        grpc_target(address)
    return tuple(dict.fromkeys(addresses))
