"""Environment variables that other software sets: they do not keep a server from serving."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.server.host_process import compute, metrics
from support.server.server_process import running_server
from support.waiting import PATIENCE_S

WORKERS = pytest.mark.parametrize("workers", ["0", "1"], ids=["alone", "supervised"])
SERVICE_LINKS = {"MSE_GRAD_PORT": "tcp://10.0.0.1:50051", "MSE_GRAD_SERVICE_HOST": "10.0.0.1"}


@WORKERS
def test_a_pod_beside_a_service_of_our_name_serves_and_one_line_names_the_ignored_variables(workers: str) -> None:
    with running_server("--workers", workers, environment=SERVICE_LINKS) as server:
        compute(server.address)
        (line,) = [event for event in server.events if event["event"] == "service_links_ignored"]
        assert line["variables"] == "MSE_GRAD_PORT, MSE_GRAD_SERVICE_HOST"


@WORKERS
@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_metrics_are_never_kept_in_files(name: str, workers: str) -> None:
    with running_server("--workers", workers, environment={name: "/no/such/folder"}) as server:
        compute(server.address)
        page = metrics(server)
        assert "mse_grad_elements_total" in page
        labels = 'reason="backlog"' if workers == "0" else 'reason="backlog",worker="supervisor"'
        assert f"mse_grad_log_lost_lines_total{{{labels}}} 0.0" in page


@WORKERS
def test_a_server_that_finds_grpc_imported_serves_without_the_experiments(workers: str, tmp_path: Path) -> None:
    # Imports gRPC in each interpreter that starts, as opentelemetry-instrument does.
    (tmp_path / "sitecustomize.py").write_text("import grpc\n")
    with running_server("--workers", workers, environment={"PYTHONPATH": str(tmp_path)}) as server:
        compute(server.address)
        warned = [event["message"] for event in server.events if event["event"] == "grpc_environment"]
        # Workers are started with the variable, so gRPC finds it there.
        assert len(warned) == (workers == "0")


def test_under_nohup_a_hangup_ends_nothing() -> None:
    command = [sys.executable, "-m", "mse_grad_server", "--listen", "127.0.0.1:0", "--metrics-listen", "none"]
    with subprocess.Popen(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command], stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, b"")
        assert any(b'"ready"' in line for line in lines)
        server.send_signal(signal.SIGHUP)
        server.send_signal(signal.SIGTERM)
        log = b"".join(lines)
        assert server.wait(PATIENCE_S) == 0
    assert b'"signal": "SIGTERM"' in log
    assert b"SIGHUP" not in log
