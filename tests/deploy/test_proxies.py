"""deploy/envoy and deploy/haproxy for real: two servers behind each, under load, one drained and one killed."""

from __future__ import annotations

import signal
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.deploy.load import running_load
from support.deploy.proxies import PROXIES, SERVER_NAME, Proxy, rejected
from support.ports import held_port
from support.server.certificates import NAMES, Authority
from support.server.server_process import ServerProcess, running_server
from support.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

METHODS = {"unary": "ComputeGradient", "oip": "ModelInfer", "sdk": "StreamGradients"}
CALLS = 200


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The CA of the files that the configurations name: tls.pem, tls.key, ca.pem."""
    made = Authority(tmp_path)
    made.issue("tls", names=(*NAMES, SERVER_NAME))
    return made


@pytest.fixture
def flags(tmp_path: Path, authority: Authority) -> tuple[str, ...]:
    return ("--tls-certificate", str(tmp_path / "tls.pem"), "--tls-key", str(tmp_path / "tls.key"))


def counted(server: ServerProcess) -> dict[str, float]:
    """Returns the successful requests of a server by method."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    found = dict.fromkeys(METHODS.values(), 0.0)
    for line in lines:
        if line.startswith("mse_grad_requests_total{") and 'code="OK"' in line:
            (method,) = (name for name in found if f'method="{name}"' in line)
            found[method] += float(line.rpartition(" ")[2])
    return found


def port_of(server: ServerProcess) -> int:
    return int(server.address.rpartition(":")[2])


@pytest.mark.parametrize("name", PROXIES)
def test_calls_are_balanced_and_survive_a_drain_and_a_kill(
    name: str, tmp_path: Path, authority: Authority, flags: tuple[str, ...]
) -> None:
    with ExitStack() as opened:
        place, metrics_place = (f"127.0.0.1:{opened.enter_context(held_port())}" for _ in range(2))
        first = opened.enter_context(running_server(*flags, listen=place, metrics_listen=metrics_place))
        second = opened.enter_context(running_server(*flags))
        both = {port_of(first), port_of(second)}
        proxy: Proxy = opened.enter_context(PROXIES[name]((first, second), tmp_path))
        wait_until(lambda: proxy.up() == both, otherwise="the proxy takes the servers for down")
        load = opened.enter_context(running_load(proxy.address, authority.certificate))

        load.go_on(CALLS)
        assert load.failures() == {}
        counts = [counted(server) for server in (first, second)]
        print(f"{name}: balance {counts}")
        for method in ("ComputeGradient", "ModelInfer"):  # each through one connection
            shares = [count[method] / sum(one[method] for one in counts) for count in counts]
            assert min(shares) > 0.1  # a third on average: the other server has the stream too

        first.process.send_signal(signal.SIGTERM)
        wait_until(lambda: proxy.up() == {port_of(second)}, otherwise="the proxy does not see the drain")
        load.go_on(1)  # calls that were under way then have ended
        noticed = load.failures()
        first.process.wait(PATIENCE_S)  # a second signal would end it at once
        first.stop()  # with exit code 0: it answered every accepted request
        load.go_on(CALLS)
        assert load.failures() == noticed
        print(f"{name}: failed until the drain was seen {summary(noticed)}")
        if name == "envoy":
            assert noticed == {}  # it sends calls again that a draining server refuses
        assert "sdk" not in noticed

        third = opened.enter_context(running_server(*flags, listen=place, metrics_listen=metrics_place))
        wait_until(lambda: proxy.up() == both, otherwise="the proxy does not see the new server")
        load.go_on(CALLS)
        second.kill()
        wait_until(lambda: proxy.up() == {port_of(third)}, otherwise="the proxy does not see the kill")
        load.go_on(1)  # calls that were under way then have ended
        noticed = load.failures()
        load.go_on(CALLS)
        assert load.failures() == noticed
        print(f"{name}: failed until the kill was seen {summary(noticed)} of {load.counts()}")
        assert "sdk" not in noticed


@pytest.mark.parametrize(("name", "ends_streams"), [("envoy", "proxy"), ("envoy", "server"), ("haproxy", "server")])
def test_a_stream_that_ends_by_age_goes_on_elsewhere_without_a_failed_call(
    name: str, ends_streams: str, tmp_path: Path, authority: Authority, flags: tuple[str, ...]
) -> None:
    if ends_streams == "server":
        flags += ("--max-stream-age-s", "0.5")
    options = {"stream_age_s": 0.5} if ends_streams == "proxy" else {}
    with ExitStack() as opened:
        servers = [opened.enter_context(running_server(*flags)) for _ in range(2)]
        proxy: Proxy = opened.enter_context(PROXIES[name](servers, tmp_path, **options))
        wait_until(lambda: len(proxy.up()) == 2, otherwise="the proxy takes the servers for down")
        load = opened.enter_context(running_load(proxy.address, authority.certificate, kinds=("sdk",)))
        wait_until(
            lambda: min(counted(server)["StreamGradients"] for server in servers) >= CALLS,
            otherwise="the streams stay with one server",
        )
        assert load.failures() == {}


def test_the_files_are_valid_as_they_are(tmp_path: Path, authority: Authority) -> None:
    assert rejected(tmp_path) == {"envoy": False, "haproxy": False}
    assert rejected(tmp_path, misspelt=True) == {"envoy": True, "haproxy": True}


def summary(failures: dict[str, list[str]]) -> dict[str, int]:
    return {kind: len(errors) for kind, errors in failures.items()}
