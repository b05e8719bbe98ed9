"""A file of a FUSE file system that does not answer after the file is open, as a hostile or broken one may."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.waiting import PATIENCE_S

__all__ = ["FrozenFile", "frozen_file"]

_REQUEST = struct.Struct("<IIQQ")
_ANSWER = struct.Struct("<IiQ")
_LOOKUP, _GETATTR, _OPEN, _FORGET, _INIT = 1, 3, 14, 2, 26
_NOT_IMPLEMENTED = 38
_MNT_FORCE_AND_DETACH = 3
_ROOT, _FILE = 1, 2
_VALID_S = 1000
_MOST_REQUEST_BYTES = 1 << 20


class FrozenFile:
    """The file, and the thread that is its file system.

    Attributes:
        path: Path of the file, which may be opened once; closing it blocks until the file system is gone.
        is_frozen: Whether the file system still keeps its callers waiting.
        asked: Set when the file system gets a request after the file was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.is_frozen = True
        self.asked = threading.Event()
        self._folder = os.fsencode(folder)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if self._libc.mount(b"frozen", self._folder, b"fuse", 0, options.encode()) != 0:
            number = ctypes.get_errno()
            os.close(self._device)
            raise OSError(number, os.strerror(number))
        self._is_open = False
        self._serving = threading.Thread(target=self._serve)
        self._serving.start()
        self.path = folder / "file"

    def thaw(self) -> None:
        """Ends the file system; every call that waits for it returns. A second call does nothing."""
        self.is_frozen = False
        self._libc.umount2(self._folder, _MNT_FORCE_AND_DETACH)
        self._serving.join()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _MOST_REQUEST_BYTES)
            except OSError:  # the file system is no longer mounted
                os.close(self._device)
                return
            _, operation, unique, node = _REQUEST.unpack_from(request)
            if self._is_open:
                self.asked.set()
                continue
            if operation == _FORGET:
                continue
            answer = _answer(operation, node)
            size_bytes = _ANSWER.size + len(answer or b"")
            error = -_NOT_IMPLEMENTED if answer is None else 0
            self._is_open = operation == _OPEN
            os.write(self._device, _ANSWER.pack(size_bytes, error, unique) + (answer or b""))


def _answer(operation: int, node: int) -> bytes | None:
    if operation == _INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 131072, 1, 32, 0, *[0] * 8)
    if operation == _GETATTR:
        return struct.pack("<QII", _VALID_S, 0, 0) + _attributes(node)
    if operation == _LOOKUP:
        return struct.pack("<4Q2I", _FILE, 0, _VALID_S, _VALID_S, 0, 0) + _attributes(_FILE)
    if operation == _OPEN:
        return struct.pack("<QII", 1, 0, 0)
    return None


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == _ROOT else 0o100666
    return struct.pack("<6Q10I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@contextmanager
def frozen_file(folder: Path) -> Iterator[FrozenFile]:
    """Provides a frozen file, mounted on `folder`; skips the test if this user may not mount one.

    The file system ends by itself if a test waits for too long: a process that waits for it cannot be killed.
    """
    try:
        file = FrozenFile(folder)
    except OSError as error:
        pytest.skip(f"no FUSE file system can be mounted here: {error}")
    thawing = threading.Timer(PATIENCE_S, file.thaw)
    thawing.start()
    try:
        yield file
    finally:
        thawing.cancel()
        file.thaw()
