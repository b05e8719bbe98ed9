"""The server with the environment of a pod, in a network of its own: start, probes, a gradient, end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.deploy.manifests import Object, Pod, pods_of, render
from support.deploy.own_network import own_network
from support.server.backends import ascend_flags
from support.server.certificates import Authority
from support.server.server_process import READY_TIMEOUT_S, ServerProcess
from support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECRETS = "/run/secrets/mse-grad"
# The Service's name leads to the pod's address in a cluster; here it is the loopback's.
COMPUTE = """
import sys
import time
import numpy as np
from mse_grad_client import ClientOptions, MseGradClient
address, ca, tokens = sys.argv[1:]
options = ClientOptions(tls_ca=ca or None, token_file=tokens or None)
with MseGradClient(address, options=options) as client:
    predict, label = np.float32([3, -1.5]), np.float32([1, 0.5])
    gradient = client.compute(predict, label, 2.0, "sum", timeout_s=60)
    give_up_s = time.monotonic() + 60
    while (transport := client.server_info().transport) == "stream" and time.monotonic() < give_up_s:
        pass
    print(gradient.tolist(), transport)
"""


@contextmanager
def running(pod: Pod, *flags: str, secrets: Path) -> Iterator[ServerProcess]:
    """Runs the server of a pod, with `secrets` in the place of its mounted Secrets, and ends it as the kubelet does."""
    variables = {one["name"]: one["value"] for one in pod.container["env"] if "value" in one}
    given = {name: value.replace(SECRETS, str(secrets)) for name, value in variables.items()}
    server = ServerProcess(*flags, environment=given)
    server.start()
    try:
        server.wait_for_event("ready", timeout_s=READY_TIMEOUT_S)
        yield server
        server.stop(timeout_s=pod.spec["terminationGracePeriodSeconds"])
    finally:
        if server.process.poll() is None:
            server.kill()


def probe(pod: Pod, kind: str) -> int:
    """Returns the status that the kubelet sees."""
    asked = pod.container[f"{kind}Probe"]["httpGet"]
    (port,) = (one["containerPort"] for one in pod.container["ports"] if one["name"] == asked["port"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{asked['path']}", timeout=10) as answer:
        return int(answer.status)


def compute(objects: list[Object], *, ca: str = "", tokens: str = "") -> str:
    """Returns what a client prints that takes the port from the Service."""
    (service,) = (made["spec"] for made in objects if made["kind"] == "Service")
    (port,) = (one["port"] for one in service["ports"] if one["name"] == "grpc")
    command = [sys.executable, "-c", COMPUTE, f"localhost:{port}", ca, tokens]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("overlay", ["cpu", "ascend", "mindcluster"])
def test_a_pod_serves(overlay: str, tmp_path: Path) -> None:
    objects = render(overlay, tmp_path)
    (pod,) = pods_of(objects)
    flags = () if overlay == "cpu" else ascend_flags()
    with own_network(), running(pod, *flags, secrets=tmp_path):
        assert [probe(pod, kind) for kind in ("startup", "readiness", "liveness")] == [200, 200, 200]
        assert compute(objects) == "[8.0, -8.0] direct\n"


def test_a_pod_with_tls_serves_callers_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "kustomize").mkdir()
    objects = render("cpu", tmp_path / "kustomize", components=("components/tls",))
    (pod,) = pods_of(objects)
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    # As the projected volume names the keys of the Secrets.
    shutil.copy(pair.certificate, tmp_path / "tls.crt")
    shutil.copy(pair.key, tmp_path / "tls.key")
    (tmp_path / "tokens").write_text("a-token-that-is-long-enough\n")
    with own_network(), running(pod, secrets=tmp_path):
        assert [probe(pod, kind) for kind in ("startup", "readiness", "liveness")] == [200, 200, 200]
        ca = str(authority.certificate)
        assert compute(objects, ca=ca, tokens=str(tmp_path / "tokens")) == "[8.0, -8.0] direct\n"
        with pytest.raises(subprocess.CalledProcessError) as failed:
            compute(objects, ca=ca)
        assert "Unauthenticated" in failed.value.stderr


def write_as_the_kubelet(folder: Path, version: str, contents: Mapping[str, bytes]) -> None:
    """Writes the files of a mounted Secret: they lie in a folder of their version, to which one link leads."""
    (folder / version).mkdir(parents=True)
    for name, content in contents.items():
        (folder / version / name).write_bytes(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")


def test_a_pod_reads_secrets_that_the_kubelet_writes_again(tmp_path: Path) -> None:
    (tmp_path / "kustomize").mkdir()
    objects = render("cpu", tmp_path / "kustomize", components=("components/tls",))
    (pod,) = pods_of(objects)
    authority = Authority(tmp_path)

    def contents(name: str) -> dict[str, bytes]:
        pair = authority.issue(name)
        (tmp_path / name).write_text(f"a-token-that-is-long-enough-{name}\n")
        return {
            "tls.crt": Path(pair.certificate).read_bytes(),
            "tls.key": Path(pair.key).read_bytes(),
            "tokens": (tmp_path / name).read_bytes(),
        }

    secrets = tmp_path / "secrets"
    write_as_the_kubelet(secrets, "..first", contents("first"))
    with own_network(), running(pod, secrets=secrets) as server:
        ca = str(authority.certificate)
        assert compute(objects, ca=ca, tokens=str(tmp_path / "first")) == "[8.0, -8.0] direct\n"
        write_as_the_kubelet(secrets, "..second", contents("second"))
        shutil.rmtree(secrets / "..first")
        read = {"tls.crt", "tls.key", "tokens"}
        wait_until(lambda: read == {Path(file).name for one in server.events for file in one.get("files", ())})
        assert {one["event"] for one in server.events if "files" in one} == {"credentials_read"}
        assert compute(objects, ca=ca, tokens=str(tmp_path / "second")) == "[8.0, -8.0] direct\n"
        with pytest.raises(subprocess.CalledProcessError) as failed:
            compute(objects, ca=ca, tokens=str(tmp_path / "first"))
        assert "TOKEN_UNKNOWN" in failed.value.stderr


def test_the_scaler_asks_for_a_metric_of_the_server(tmp_path: Path) -> None:
    objects = render("cpu", tmp_path, components=("components/autoscaling",))
    (pod,) = pods_of(objects)
    (scaled,) = (made["spec"] for made in objects if made["kind"] == "ScaledObject")
    (name,) = re.findall(r"sum\((\w+)\{", scaled["triggers"][0]["metadata"]["query"])
    with own_network(), running(pod, secrets=tmp_path):
        (port,) = (one["containerPort"] for one in pod.container["ports"] if one["name"] == "metrics")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            assert f"\n{name} 0.0\n" in page.read().decode()
