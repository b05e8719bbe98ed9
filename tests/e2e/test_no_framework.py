"""Imports of the server: none of its processes imports PyTorch, even if it is installed."""

from __future__ import annotations

from pathlib import Path

from support.server.backends import ascend_flags
from support.server.host_process import compute, pid_of, states
from support.server.server_process import running_server

PACKAGE = """
import os
with open(os.environ["IMPORTED"], "a") as report:
    report.write(__name__)
"""


def test_torch_is_imported_by_neither_supervisor_nor_worker(tmp_path: Path) -> None:
    for name in ("torch", "torch_npu"):
        (tmp_path / f"{name}.py").write_text(PACKAGE)
    imported = tmp_path / "imported"
    environment = {"PYTHONPATH": str(tmp_path), "IMPORTED": str(imported)}
    with running_server(*ascend_flags(), "--devices", "0", environment=environment) as host:
        ((address, _, _),) = states(host.address)
        compute(address)
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (host.process.pid, pid_of(host, "npu:0"))}
    assert not imported.exists()
    assert "torch" not in "".join(maps.values())
    assert "libacl_rt.so" not in maps[host.process.pid]
    assert "cygrpc" not in maps[host.process.pid]
