from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys

import grpc
import pytest

from mse_grad_server.process.environment import set_grpc_environment

HAS_GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

# These programs need a process each, because the setting cannot be undone.
SCRIPT = "from mse_grad_server.process.environment import keep_freed_memory; print(keep_freed_memory())"
FAULTS = """
import resource, sys
from mse_grad_server.process.environment import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(12):
    window = [b"x" * 2**22 for _ in range(8)]  # the messages of a full stream, all freed when it is idle
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
def test_a_malloc_tuned_by_the_environment_is_left_alone(environment: dict[str, str]) -> None:
    assert run(SCRIPT) == "True"
    assert run(SCRIPT, **environment) == "False"


# The program ends when grpc is about to be imported, and prints the variables that grpc would read.
_WATCHED = """
import json, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(json.dumps([os.environ.get("GRPC_EXPERIMENTS"), os.environ.get("GRPC_VERBOSITY")]), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
from mse_grad_server.__main__ import main
main(sys.argv[1:])
"""


def told(*flags: str, **variables: str) -> list[str | None]:
    """Returns the two variables at the moment when the server's command imports grpc."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    run = subprocess.run(
        [sys.executable, "-c", _WATCHED, *flags],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    found: list[str | None] = json.loads(run.stdout)
    return found


def test_the_environment_is_set_before_grpc_is_imported() -> None:
    assert told() == ["-event_engine_client,-event_engine_listener", "NONE"]


def test_the_setting_overrides_the_variable_and_the_variable_overrides_the_default() -> None:
    assert told(GRPC_EXPERIMENTS="tcp_frame_size_tuning", GRPC_VERBOSITY="info") == ["tcp_frame_size_tuning", "info"]
    assert told("--grpc-experiments=", GRPC_EXPERIMENTS="tcp_frame_size_tuning") == ["", "NONE"]


def test_it_reports_that_grpc_was_imported_before() -> None:
    assert grpc.__version__
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPC_EXPERIMENTS", "before")
        patch.setenv("GRPC_VERBOSITY", "before")
        assert not set_grpc_environment("after")
        assert os.environ["GRPC_EXPERIMENTS"] == "after"  # child processes inherit it
