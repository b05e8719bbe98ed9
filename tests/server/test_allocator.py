from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys

import pytest

HAS_GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

# In a process of its own: the setting cannot be taken back.
SCRIPT = "from mse_grad_server.allocator import keep_freed_memory; print(keep_freed_memory())"
FAULTS = """
import resource, sys
from mse_grad_server.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(12):
    window = [b"x" * 2**22 for _ in range(8)]  # as many messages as a stream may hold, all freed when it is idle
    del window
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[1])
"""


def run(script: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    pages_of_a_window = 8 * 2**22 // mmap.PAGESIZE
    assert int(run(FAULTS, "keep")) < pages_of_a_window < int(run(FAULTS, "leave"))


@pytest.mark.skipif(not HAS_GLIBC, reason="glibc only")
@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}], ids=str
)
def test_a_malloc_that_the_environment_tunes_is_left_alone(environment: dict[str, str]) -> None:
    assert run(SCRIPT) == "True"
    assert run(SCRIPT, **environment) == "False"
