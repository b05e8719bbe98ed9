"""One client of several hosts under load, while hosts come and go, as network namespaces, names and processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.client.load import THREADS, Load
from support.client.stub_resolver import Names
from support.server.separate_hosts import Host, Hosts
from support.server.server_process import ServerProcess, running_server
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="network namespaces need Linux")]

PORT = 50051
CALLS = 2400
# Runs of that many calls, of which one must show fair shares.
TRIES = 10
# How long the troubles of test_minutes_of_troubles_fail_no_call last at least; each occurs once in any case.
TROUBLES_S = float(os.environ.get("MSE_GRAD_TEST_TROUBLES_S", "0"))
READ_METRICS = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics').read().decode(), end='')"
)
OPERAND_BYTES = re.compile(r'^mse_grad_transferred_bytes_total\{direction="in".*\} (\S+)$', re.MULTILINE)


class Machines:
    """Hosts with a server each.

    Attributes:
        hosts: The hosts.
        running: Host -> its server.
    """

    def __init__(self, hosts: Hosts, stack: ExitStack) -> None:
        self.hosts = hosts
        self.running: dict[Host, ServerProcess] = {}
        self._stack = stack

    def add(self) -> Host:
        """Returns a further host, whose server is ready."""
        host = self.hosts.add()
        self.start(host)
        return host

    def start(self, host: Host) -> None:
        """Runs a server on `host`, and returns when it is ready."""
        server = running_server(
            "--insecure-listen",
            listen=f"{host.ip}:{PORT}",
            metrics_listen="127.0.0.1:9464",
            prefix=host.command(),
        )
        self.running[host] = self._stack.enter_context(server)

    def received_bytes(self, host: Host) -> float:
        """Returns the bytes of operands that the server on `host` has received."""
        page = subprocess.run(
            host.command(sys.executable, "-S", "-c", READ_METRICS), capture_output=True, text=True, check=True
        ).stdout
        return sum(float(value) for value in OPERAND_BYTES.findall(page))

    def wait_used(self, *hosts: Host) -> None:
        """Waits until the servers on `hosts` have received operands, each more than before."""
        for host in hosts:
            before = self.received_bytes(host)
            wait_until(partial(self._has_received, host, before))

    def _has_received(self, host: Host, most_bytes: float) -> bool:
        return self.received_bytes(host) > most_bytes

    def shares(self, load: Load, *hosts: Host) -> list[float]:
        """Returns the part of the bytes of some calls that each of `hosts` receives, in multiples of a fair share.

        A host that a busy machine slows down gets less. So if the shares are not fair, it makes more calls.
        """
        shares: list[float] = []
        for _ in range(TRIES):
            before = [self.received_bytes(host) for host in hosts]
            assert load.run(CALLS) == (CALLS, [])
            received = [self.received_bytes(host) - then for host, then in zip(hosts, before, strict=True)]
            shares = [len(hosts) * each / sum(received) for each in received]
            if are_fair(shares):
                break
        return shares


@pytest.fixture
def machines() -> Iterator[Machines]:
    with Hosts() as hosts, ExitStack() as stack:
        yield Machines(hosts, stack)


@pytest.fixture
def names(machines: Machines, tmp_path: Path) -> Iterator[Names]:
    """The names that the client's host looks up."""
    names = Names(tmp_path / "names.json")
    script = Path(__file__).parents[1] / "support" / "client" / "stub_resolver.py"
    command = machines.hosts.client.command(sys.executable, str(script), machines.hosts.client.ip, str(names.path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as resolver:
        assert resolver.stdout is not None
        assert resolver.stdout.readline() == "listening\n"
        yield names
        resolver.kill()


def test_hosts_are_drained_killed_added_renamed_and_restarted_without_a_failed_call(
    machines: Machines, names: Names, capsys: pytest.CaptureFixture[str]
) -> None:
    drained, killed, renamed = (machines.add() for _ in range(3))
    names.update({"pool.test": [drained.ip, killed.ip], "moving.test": [renamed.ip]})
    addresses = [f"dns:///{name}:{PORT}" for name in ("pool.test", "moving.test")]
    with Load(machines.hosts.client.command(), *addresses) as load:
        load.begin()
        machines.wait_used(drained, killed, renamed)

        machines.running[drained].stop()

        machines.running[killed].kill()
        machines.wait_used(renamed)
        machines.start(killed)
        machines.wait_used(killed)

        added = machines.add()
        names.update({"pool.test": [killed.ip, added.ip]})
        machines.wait_used(added)

        moved = machines.add()
        names.update({"moving.test": [moved.ip]})
        machines.wait_used(moved)
        changes = load.end()
        assert changes.failures == []

        in_use = (killed, added, moved)
        before = machines.received_bytes(renamed)
        after_changes = machines.shares(load, *in_use)
        assert machines.received_bytes(renamed) == before

        load.begin()
        for host in in_use:
            machines.running[host].stop()
            machines.start(host)
            machines.wait_used(host)
        restarts = load.end()
        assert restarts.failures == []
        after_restarts = machines.shares(load, *in_use)

    with capsys.disabled():
        print(f"\n{changes.calls} calls during the changes; then shares of bytes: {shown(after_changes)}")
        print(f"{restarts.calls} calls during a rolling restart; then shares of bytes: {shown(after_restarts)}")
    assert are_fair(after_changes)
    assert are_fair(after_restarts)


def test_a_host_that_is_cut_off_costs_few_calls_and_gets_its_share_again(
    machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [machines.add() for _ in range(3)]
    with Load(machines.hosts.client.command(), *[f"{host.ip}:{PORT}" for host in hosts], timeout_s=2.0) as load:
        machines.shares(load, *hosts)
        machines.hosts.cut_off(hosts[0])
        failures = load.run(2 * CALLS).failures
        machines.hosts.heal(hosts[0])
        load.begin()
        machines.wait_used(hosts[0])
        assert load.end().failures == []
        after = machines.shares(load, *hosts)
    with capsys.disabled():
        print(f"\n{len(failures)} calls without an answer from a host that was cut off; then shares: {shown(after)}")
    assert 1 <= len(failures) <= 2 * THREADS
    assert all("DeadlineExceeded" in failure for failure in failures)
    assert are_fair(after)


@pytest.mark.timeout(TROUBLES_S + 240)
def test_minutes_of_troubles_fail_no_call(machines: Machines, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = [machines.add() for _ in range(3)]
    addresses = [f"{host.ip}:{PORT}" for host in hosts]
    # No call's time may be over because its host is cut off for a while.
    command = machines.hosts.client.command()
    with Load(command, *addresses, timeout_s=120) as load, Load(command, *addresses, timeout_s=120) as other:
        load.begin()
        other.begin()
        machines.wait_used(*hosts)
        rounds, begun_s = 0, time.monotonic()
        while not rounds or time.monotonic() < begun_s + TROUBLES_S:
            troubled, *others = hosts[rounds % 3 :] + hosts[: rounds % 3]
            machines.running[troubled].kill()
            machines.wait_used(*others)
            machines.start(troubled)
            machines.wait_used(troubled)

            machines.hosts.cut_off(troubled)
            machines.wait_used(*others)
            machines.hosts.heal(troubled)
            machines.wait_used(troubled)

            slow_down(machines.running[troubled])
            machines.wait_used(*hosts)

            for host in hosts:
                machines.running[host].stop()
                machines.start(host)
                machines.wait_used(host)
            rounds += 1
        tallies = load.end(), other.end()
        seconds = time.monotonic() - begun_s
        assert [failure for tally in tallies for failure in tally.failures] == []
        after = machines.shares(load, *hosts)
    calls = sum(tally.calls for tally in tallies)
    with capsys.disabled():
        print(f"\n{calls} calls in {rounds} rounds of troubles, {seconds:.0f} s; then shares of bytes: {shown(after)}")
    assert are_fair(after)


def slow_down(server: ServerProcess) -> None:
    """Gives a server a tenth of the time for three seconds."""
    for _ in range(30):
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.09)
        server.process.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def are_fair(shares: list[float]) -> bool:
    return all(0.9 < share < 1.1 for share in shares)


def shown(shares: list[float]) -> str:
    return ", ".join(f"{share:.3f}" for share in shares)
