"""A real Prometheus over real servers, with the rules of deploy/."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from support.tools import require_program
from support.waiting import PATIENCE_S, wait_until

__all__ = ["DEPLOY", "Prometheus", "QueryError", "running_prometheus"]

DEPLOY = Path(__file__).parents[3] / "deploy"


class QueryError(Exception):
    """Prometheus refuses the query; the message is its own."""


class Prometheus:
    """Queries the Prometheus at an address.

    Attributes:
        address: "host:port".
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Returns the series that `expression` yields now; raises QueryError if it is not a valid query."""
        data = self._ask("query", query=expression)
        return [{"value": data["result"]}] if data["resultType"] == "scalar" else list(data["result"])

    def query_range(self, expression: str, *, begin_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The same over a span of Unix time."""
        return list(self._ask("query_range", query=expression, start=begin_s, end=end_s, step=step_s)["result"])

    def _ask(self, path: str, **parameters: object) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(json.load(error)["error"]) from None


@contextmanager
def running_prometheus(folder: Path, targets: Mapping[str, Mapping[str, str]]) -> Iterator[Prometheus]:
    """Runs Prometheus on a free port with deploy/prometheus/prometheus.yml, scraping every second.

    Args:
        folder: Folder for its data and log.
        targets: By job and instance, the "host:port" of the metrics. Other jobs of the file are left out.
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
        process.wait(PATIENCE_S)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Returns the address of the process once it is ready; its log does not name the port."""
    seen = psutil.Process(process.pid)

    def ready_address() -> str:
        assert process.poll() is None, log.read_text()
        for at in seen.net_connections():
            if at.status != psutil.CONN_LISTEN:
                continue
            address = f"127.0.0.1:{at.laddr.port}"
            try:
                with urllib.request.urlopen(f"http://{address}/-/ready", timeout=PATIENCE_S):
                    return address
            except urllib.error.HTTPError as error:
                error.close()  # 503 while it starts
        return ""

    return wait_until(ready_address)
