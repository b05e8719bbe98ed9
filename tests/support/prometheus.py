"""A real Prometheus over real servers, with the rules of deploy/."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml

from support.tools import require_program

__all__ = ["DEPLOY", "Prometheus", "QueryError", "running_prometheus"]

DEPLOY = Path(__file__).parents[2] / "deploy"
# How long what must come may take; only what fails ever waits that long.
_PATIENCE_S = 30.0
_LOOK_S = 0.05

T = TypeVar("T")


class QueryError(Exception):
    """Prometheus does not take the query; the message is its own."""


class Prometheus:
    """Asks the Prometheus at an address.

    Attributes:
        address: "host:port".
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the series that `expression` yields now; raises QueryError where it is none."""
        data = self._ask("query", query=expression)
        return [{"value": data["result"]}] if data["resultType"] == "scalar" else list(data["result"])

    def query_range(self, expression: str, *, begin_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Returns the series that `expression` yields over a span of Unix time; likewise."""
        return list(self._ask("query_range", query=expression, start=begin_s, end=end_s, step=step_s)["result"])

    def until(self, condition: Callable[[], T], *, why: str) -> T:
        """Returns what `condition` does as soon as that is true; fails with `why` where it never is."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < give_up_s, why
            time.sleep(_LOOK_S)
        return found

    def _ask(self, path: str, **parameters: object) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE_S) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(json.load(error)["error"]) from None


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, Mapping[str, str]]) -> Iterator[Prometheus]:
    """Runs Prometheus on a free port with deploy/prometheus/prometheus.yml, scraping every second.

    Args:
        folder: For its data and log.
        targets: By job, by instance: where the metrics are, "host:port". Other jobs of the file are left out.
    """
    program = require_program("prometheus")
    given = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    jobs = [job for job in given["scrape_configs"] if job["job_name"] in targets]
    assert {job["job_name"] for job in jobs} == set(targets)
    for job in jobs:
        instances = targets[job["job_name"]].items()
        job["static_configs"] = [{"targets": [at], "labels": {"instance": name}} for name, at in instances]
    given["scrape_configs"] = jobs
    given["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    given["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in given["rule_files"]]
    del given["alerting"]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(given))
    log = folder / "prometheus.log"
    flags = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as written:
        process = subprocess.Popen([program, *flags], stdout=subprocess.DEVNULL, stderr=written)
    try:
        yield Prometheus(_address(process, log))
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Returns where it answers, once it is ready; its log does not say which port it was given."""
    give_up_s = time.monotonic() + _PATIENCE_S
    seen = psutil.Process(process.pid)
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up_s, log.read_text()
        for at in seen.net_connections():
            if at.status != psutil.CONN_LISTEN:
                continue
            address = f"127.0.0.1:{at.laddr.port}"
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=_PATIENCE_S):
                    return address
            except urllib.error.HTTPError as error:
                error.close()  # 503 while it starts
        time.sleep(_LOOK_S)
