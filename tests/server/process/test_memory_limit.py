from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ByteSize

from mse_grad_server.process.memory_limit import memory_limit_bytes
from mse_grad_server.settings.model import Settings
from support.waiting import PATIENCE_S

MIB = 2**20
OWN_BYTES = memory_limit_bytes(Path("/nowhere"))


def machine(folder: Path, groups: str, **limits: str) -> Path:
    """Returns the root of a file system in which a process belongs to `groups`."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for path, limit in limits.items():
        file = folder / "sys/fs/cgroup" / path.replace("__", "/").replace("memory_", "memory.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return folder


def test_without_control_groups_the_machine_and_the_address_space_count() -> None:
    assert 0 < OWN_BYTES < 2**60


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/\n", {"memory_max": str(5 * MIB)}),
        ("0::/a/b\n", {"a__b__memory_max": "max", "a__memory_max": str(5 * MIB)}),
        ("0::/a\n", {"a__memory_max": str(9 * MIB), "a__memory_high": str(5 * MIB)}),
        ("0::/of/the/host\n", {"memory_max": str(5 * MIB)}),
        ("9:name=systemd:/\n4:memory:/a\n0::/\n", {"memory__a__memory_limit_in_bytes": str(5 * MIB)}),
        ("5:cpu,memory:/docker/1\n", {"memory__memory_limit_in_bytes": str(5 * MIB)}),
    ],
    ids=["own", "parent", "high", "container", "first version", "container of the first version"],
)
def test_the_smallest_limit_of_the_groups_counts(groups: str, limits: dict[str, str], tmp_path: Path) -> None:
    assert memory_limit_bytes(machine(tmp_path, groups, **limits)) == 5 * MIB


@pytest.mark.parametrize("groups", ["0::/a\n", "4:memory:/a\n", "", "0::/../..\n"])
def test_a_group_without_a_limit_sets_none(groups: str, tmp_path: Path) -> None:
    limits = {"a__memory_max": "max", "memory__a__memory_limit_in_bytes": str(2**63 - 4096)}
    assert memory_limit_bytes(machine(tmp_path, groups, **limits)) == OWN_BYTES


def test_half_of_the_limit_may_be_mapped_by_all_workers_together() -> None:
    alone = Settings().shared_memory_bytes
    assert 0 < alone <= min(16 * 1024 * MIB, OWN_BYTES // 2)
    assert 3 * Settings(workers=3).shared_memory_bytes <= alone
    assert 2 * Settings(backend="ascend", devices="0,5").shared_memory_bytes <= alone
    assert Settings(backend="ascend", devices="all").shared_memory_bytes <= alone


def test_an_explicit_size_is_kept_whatever_the_limit() -> None:
    assert Settings(shared_memory_bytes=ByteSize(2**46)).shared_memory_bytes == 2**46


def test_a_small_address_space_is_mapped_only_in_part() -> None:
    program = f"ulimit -v 4194304; exec {sys.executable} -m mse_grad_server --print-config"
    printed = subprocess.run(["sh", "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    (line,) = (line for line in printed.stdout.splitlines() if line.startswith("shared_memory_bytes:"))
    assert line.split()[1] == "2GiB"
