"""Programs with Ray in their own environment, network and process namespace: nothing of theirs is left, or reachable.

Ray's proxies listen on every address of the host, and its nodes survive the process that started them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.environments import RAY, python_of
from support.deploy.own_network import own_network

__all__ = ["run_with_ray"]

_ROOT = Path(__file__).parents[3]
_FOLDERS = ("proto", "client", "server", "kernel", "deploy/ray", "tests")


def run_with_ray(*arguments: str, timeout_s: float) -> str:
    """Runs `python ARGUMENTS` and returns its output; needs root and `unshare`.

    Every process that it started has ended when this function returns, or raises.

    Args:
        arguments: Arguments of Python.
        timeout_s: Longest time.

    Raises:
        AssertionError: It failed; the message has the end of its output.
    """
    python = python_of(RAY)
    namespaces = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    # A short path: Ray's sockets are below it, and the path of a socket has at most 107 bytes.
    with TemporaryDirectory(prefix="r-", dir="/tmp") as folder, own_network():
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(_ROOT / name) for name in _FOLDERS),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TMPDIR": folder,
        }
        try:
            ended = subprocess.run(
                [*namespaces, python, *arguments],
                cwd=_ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            output = late.stdout or b""
            raise AssertionError(f"no end within {timeout_s:g} s: {output[-5000:]!r}") from None
    assert ended.returncode == 0, ended.stdout[-5000:]
    return ended.stdout
