from __future__ import annotations

import json
import os
import subprocess
import sys

import grpc
import pytest

from mse_grad_server.grpc_environment import set_grpc_environment

# Ends where gRPC would be imported, with what it would read.
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
    """Returns the two variables as they are when the server's command imports grpc."""
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


def test_grpc_is_imported_after_its_environment_was_set() -> None:
    assert told() == ["-event_engine_client,-event_engine_listener", "NONE"]


def test_the_setting_overrides_the_variable_of_grpc_and_that_the_default() -> None:
    assert told(GRPC_EXPERIMENTS="tcp_frame_size_tuning", GRPC_VERBOSITY="info") == ["tcp_frame_size_tuning", "info"]
    assert told("--grpc-experiments=", GRPC_EXPERIMENTS="tcp_frame_size_tuning") == ["", "NONE"]


def test_once_grpc_is_imported_it_is_too_late() -> None:
    assert grpc.__version__
    with pytest.raises(RuntimeError, match="grpc is imported already"):
        set_grpc_environment("")
