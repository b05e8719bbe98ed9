"""Hosts on one machine: network namespaces, each with an address of its own that the first one reaches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import pytest

from support.server.slow_cable import DEVICE
from support.tools import require_program

__all__ = ["Host", "Hosts"]

# A namespace has its files of /etc here; `ip netns exec` mounts them over the usual ones. Source: ip-netns(8).
_ETC = Path("/etc/netns")
_NAME_SERVER = "127.0.0.1"
_LINK = "eth0"


class Host:
    """One network namespace.

    Attributes:
        name: Its name.
        ip: Its address.
    """

    def __init__(self, name: str, ip: str) -> None:
        self.name = name
        self.ip = ip

    def command(self, *command: str) -> list[str]:
        """Returns the command line that runs `command` on this host, in the same process."""
        return ["ip", "netns", "exec", self.name, *command]


class Hosts:
    """A client's host, and any number of others that each have a cable to it, for a `with` statement; needs root.

    The client's host asks a name server of its own, at 127.0.0.1, and nothing of this machine's network changes.

    Attributes:
        client: The client's host.
    """

    def __init__(self) -> None:
        self._prefix = f"mse{os.getpid()}"
        self.client = Host(f"{self._prefix}c", "127.0.0.1")
        self._count = 0
        self._stack = ExitStack()

    def __enter__(self) -> Hosts:
        require_program("ip")
        if subprocess.run(["ip", "netns", "add", self.client.name], capture_output=True, check=False).returncode:
            if os.environ.get("CI"):
                pytest.fail("this user may make no network namespace, and CI runs every test", pytrace=False)
            pytest.skip("this user may make no network namespace")
        with ExitStack() as stack:
            stack.callback(_ip, "netns", "delete", self.client.name)
            _ip("-netns", self.client.name, "link", "set", "lo", "up")
            folder = _ETC / self.client.name
            stack.callback(shutil.rmtree, folder)
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(f"nameserver {_NAME_SERVER}\noptions timeout:1 attempts:2\n")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self) -> Host:
        """Returns a further host, with a cable to the client's."""
        self._count += 1
        host = Host(f"{self._prefix}s{self._count}", f"10.77.{self._count}.2")
        near, far = f"to{self._count}", _LINK
        _ip("netns", "add", host.name)
        self._stack.callback(_ip, "netns", "delete", host.name)
        cable = ("type", "veth", "peer", "name", far, "netns", host.name)
        _ip("-netns", self.client.name, "link", "add", near, *cable)
        self._connect(near, host, far)
        return host

    def add_far_away(self, *, delay_s: float, loss: float = 0.0, bytes_per_s: float = 0.0) -> Host:
        """Returns a further host, with a slow cable to the client's.

        Args:
            delay_s: Time that a packet takes each way.
            loss: Share of the packets that are lost, each way.
            bytes_per_s: Rate of the cable each way; 0 for no bound.
        """
        self._count += 1
        host = Host(f"{self._prefix}s{self._count}", f"10.77.{self._count}.2")
        _ip("netns", "add", host.name)
        self._stack.callback(_ip, "netns", "delete", host.name)
        quality = ("--delay-s", str(delay_s), "--loss", str(loss), "--bytes-per-s", str(bytes_per_s))
        cable = subprocess.Popen(
            [sys.executable, "-m", "support.server.slow_cable", self.client.name, host.name, *quality],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.callback(cable.communicate)
        assert cable.stdout is not None
        assert cable.stdout.readline() == "ready\n"
        self._connect(DEVICE, host, DEVICE)
        for name in (self.client.name, host.name):
            _ip("-netns", name, "link", "set", DEVICE, "mtu", "9000")
        return host

    def _connect(self, near: str, host: Host, far: str) -> None:
        for name, link, ip in ((self.client.name, near, f"10.77.{self._count}.1"), (host.name, far, host.ip)):
            _ip("-netns", name, "address", "add", f"{ip}/30", "dev", link)
            _ip("-netns", name, "link", "set", link, "up")
        _ip("-netns", host.name, "link", "set", "lo", "up")

    def cut_off(self, host: Host) -> None:
        """Lets nothing reach `host` any longer, and nothing leave it."""
        _ip("-netns", host.name, "link", "set", _LINK, "down")

    def heal(self, host: Host) -> None:
        """Ends `cut_off`."""
        _ip("-netns", host.name, "link", "set", _LINK, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
