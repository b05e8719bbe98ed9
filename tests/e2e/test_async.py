"""Processes with an asynchronous client: forks, interrupts and ends; see support.client.async_programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.client.async_programs import PROGRAMS
from support.server.server_process import ServerProcess

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_with_an_asynchronous_client_ends_well_and_warns_of_nothing(server: ServerProcess, name: str) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    # Newer Pythons warn of every fork of a process with threads.
    command = [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning"]
    command += ["-m", "support.client.async_programs", name, server.address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
