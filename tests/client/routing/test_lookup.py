"""Lookup of the names of servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from mse_grad_client.interrupts import Latch
from mse_grad_client.routing.lookup import Lookup
from mse_grad_client.routing.target import Server, Target
from support.waiting import PATIENCE_S, wait_until


def never(_: str) -> bool:
    return False


class StubResolver:
    """Names with the addresses that a test gives them; a missing name cannot be resolved."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses: dict[str, Sequence[str]] = dict(addresses)

    def __call__(self, host: str, port: int) -> Sequence[str]:
        if host not in self.addresses:
            raise OSError(f"no {host} at port {port}")
        return self.addresses[host]


def test_addresses_stand_as_they_are_and_names_are_looked_up_each_time() -> None:
    resolver = StubResolver(a=["10.0.0.1:1", "10.0.0.2:1"])
    lookup = Lookup(Target.of(["b:2", "dns:///a:1"]), resolver, is_proxied=never)
    assert lookup.servers() == (Server("b:2", "b:2"), Server("10.0.0.1:1", "a:1"), Server("10.0.0.2:1", "a:1"))
    resolver.addresses["a"] = ["10.0.0.2:1", "10.0.0.3:1"]
    assert [server.address for server in lookup.servers()] == ["b:2", "10.0.0.2:1", "10.0.0.3:1"]
    assert not lookup.errors


def test_an_address_of_two_names_is_one_server_of_the_first() -> None:
    resolver = StubResolver(a=["10.0.0.1:1"], b=["10.0.0.1:1", "10.0.0.2:1"])
    lookup = Lookup(Target.of(["dns:///a:1", "dns:///b:1"]), resolver, is_proxied=never)
    assert lookup.servers() == (Server("10.0.0.1:1", "a:1"), Server("10.0.0.2:1", "b:1"))


def fail(error: Exception) -> Callable[[str, int], Sequence[str]]:
    def resolve(host: str, port: int) -> Sequence[str]:
        raise error

    return resolve


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (fail(OSError("no such name")), "no such name"),
        (fail(RuntimeError()), "RuntimeError"),
        (lambda host, port: [], "it has no address"),
        (lambda host, port: ["10.0.0.1"], "it must be 'host:port'"),
    ],
)
def test_a_name_that_cannot_be_looked_up_keeps_its_addresses(
    failing: Callable[[str, int], Sequence[str]], why: str
) -> None:
    current: list[Callable[[str, int], Sequence[str]]] = [failing]
    lookup = Lookup(Target.of("dns:///a:1"), lambda host, port: current[0](host, port), is_proxied=never)
    assert lookup.servers() == ()
    assert why in lookup.errors["a:1"]
    current[0] = StubResolver(a=["10.0.0.1:1"])
    assert lookup.servers() == (Server("10.0.0.1:1", "a:1"),)
    assert not lookup.errors
    current[0] = failing
    assert lookup.servers() == (Server("10.0.0.1:1", "a:1"),)
    assert why in lookup.errors["a:1"]


def test_a_name_behind_a_proxy_is_one_server() -> None:
    lookup = Lookup(Target.of(["dns:///a:1", "dns:///b:1"]), StubResolver(b=["10.0.0.1:1"]), is_proxied="a:1".__eq__)
    assert lookup.servers() == (Server("a:1", "a:1"), Server("10.0.0.1:1", "b:1"))


def test_a_slow_lookup_goes_on_and_its_result_is_taken_later() -> None:
    gate, calls = threading.Event(), []

    def resolve(host: str, port: int) -> Sequence[str]:
        calls.append(host)
        assert gate.wait(PATIENCE_S)
        return ["10.0.0.1:1"]

    lookup = Lookup(Target.of("dns:///a:1"), resolve, is_proxied=never, timeout_s=0.001)
    assert lookup.servers() == ()
    assert "took more than" in lookup.errors["a:1"]
    assert lookup.servers() == ()
    gate.set()
    assert wait_until(lookup.servers) == (Server("10.0.0.1:1", "a:1"),)
    assert calls[0] == "a"


def test_names_that_hang_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, now_s, waited_s = threading.Event(), [0.0], []

    def resolve(host: str, port: int) -> Sequence[str]:
        assert gate.wait(PATIENCE_S)
        return []

    def wait(_: Latch, timeout_s: float) -> bool:
        waited_s.append(timeout_s)
        now_s[0] += timeout_s
        return False

    lookup = Lookup(Target.of(["dns:///a:1", "dns:///b:1"]), resolve, is_proxied=never, now=lambda: now_s[0])
    with monkeypatch.context() as patched:
        patched.setattr(Latch, "wait", wait)
        assert lookup.servers() == ()
    assert waited_s == [2.0, 0.0]
    assert set(lookup.errors) == {"a:1", "b:1"}
    gate.set()


def test_a_lookup_that_gets_no_thread_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lookup = Lookup(Target.of("dns:///a:1"), StubResolver(a=["10.0.0.1:1"]), is_proxied=never)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert lookup.servers() == ()
    assert lookup.errors == {"a:1": "can't start new thread"}
    assert lookup.servers() == (Server("10.0.0.1:1", "a:1"),)


def test_stopping_ends_a_lookup_that_hangs() -> None:
    gate, began = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        began.set()
        assert gate.wait(PATIENCE_S)
        return []

    lookup = Lookup(Target.of("dns:///a:1"), resolve, is_proxied=never, timeout_s=10 * PATIENCE_S)
    found: list[tuple[Server, ...]] = []
    thread = threading.Thread(target=lambda: found.append(lookup.servers()))
    thread.start()
    assert began.wait(PATIENCE_S)
    lookup.stop()
    thread.join(PATIENCE_S)
    gate.set()
    assert found == [()]
    assert lookup.servers() == ()
