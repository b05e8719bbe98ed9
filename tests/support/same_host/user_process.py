"""A client of another user on the server's host, for a server that several users share.

`python -m support.same_host.user_process ADDRESS UID` answers each line of its input with a line:

  compute N   computes N gradients in memory that it shares; "N shared_memory" if all have the right bits
  steal PID   opens the memory of the process PID through /proc; "N opened", or the name of the error
  name N      names the segments 1 to N of others on a stream of its own; the reasons of the refusals
  guess       shows a secret that it made up; the reason of the refusal
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib
import os
import pkgutil
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

import grpc

import mse_grad
import mse_grad_client
from mse_grad.codec import Chunk, SharedRange
from mse_grad.tensor import Array
from mse_grad_client import MseGradClient
from support.same_host.handover import RawHandover
from support.server.raw_stream import RawStream, header, reason_of
from support.values import expected, operands

__all__ = ["User", "user_process"]

_COUNT = 100_000  # elements: far from both bounds between packets, copies and shared memory
_PR_SET_DUMPABLE = 4  # linux/prctl.h


class User:
    """The process.

    Attributes:
        pid: Its number.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def tell(self, line: str) -> None:
        """Gives it something to do; `said` returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def said(self) -> str:
        """Returns its next answer."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        """Returns the answer to `line`."""
        self.tell(line)
        return self.said()


@contextmanager
def user_process(address: str, uid: int) -> Iterator[User]:
    """Runs a client as the user `uid` within the `with`; needs root."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.same_host.user_process", address, str(uid)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield User(process)


def main(address: str, uid: str) -> None:
    """Becomes the user, and answers the lines of its input."""
    values = operands((_COUNT,), seed=int(uid))
    right = expected(*values).tobytes()
    for package in (grpc, mse_grad, mse_grad_client):
        import_all_of(package)
    become(int(uid))
    with MseGradClient(address) as client:
        given = [client.empty(_COUNT) for _ in values]
        out = client.empty(_COUNT)
        for array, own in zip(given, values, strict=True):
            array[...] = own
        for line in sys.stdin:
            command, *words = line.split()
            if command == "compute":
                print(sum(computed(client, given, out) == right for _ in range(int(words[0]))), end=" ")
                print(client.server_info().transport, flush=True)
            elif command == "steal":
                print(steal(int(words[0])), flush=True)
            elif command == "name":
                print(asyncio.run(name(address, int(words[0]))), flush=True)
            else:
                print(asyncio.run(guess(address)), flush=True)


def import_all_of(package: ModuleType) -> None:
    """Imports every module of `package`: a directory above the checkout may be closed to the user."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        with suppress(ModuleNotFoundError):  # an adapter whose library is not installed
            importlib.import_module(module.name)


def become(uid: int) -> None:
    """Becomes the user for good, with a process like those that the user starts."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # A process that changed its user is closed to its new user too; one that the user started is not.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def computed(client: MseGradClient, given: Sequence[Array], out: Array) -> bytes:
    """Returns the bytes of one gradient."""
    out[...] = 0
    predict, label, dout = given
    client.compute(predict, label, dout, out=out)
    return out.tobytes()


def steal(pid: int) -> str:
    """Opens every memory without a name of another process, and its address space."""
    opened = 0
    try:
        with open(f"/proc/{pid}/mem", "rb"):
            opened += 1
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            if os.readlink(path).startswith("/memfd:"):
                with open(path, "r+b"):
                    opened += 1
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return f"{opened} opened"


async def name(address: str, count: int) -> str:
    """Asks for gradients of segments that others have handed over, to be written there too."""
    reasons = []
    async with grpc.aio.insecure_channel(address) as channel:
        stream = RawStream(channel)
        await stream.opened()
        for number in range(1, count + 1):
            shared = SharedRange(4, number, 0, number, 64, number, 128, number, 192)
            await stream.send([header(number, (4,))], [Chunk(number, 0, b"", b"", b"", shared)])
            (error,) = (await stream.receive()).errors
            reasons.append(reason_of(error.status).value)
    return " ".join(sorted(set(reasons)))


async def guess(address: str) -> str:
    """Tries to hand over memory for the stream of somebody else."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = RawStream(channel)
        opened = (await stream.opened()).opened
        assert opened is not None
        with RawHandover(opened, secret=secrets.token_bytes(32)) as handover:
            reason = reason_of((await handover.hand_over()).status)
    return str(reason.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
