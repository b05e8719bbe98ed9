from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mse_grad.reasons import Reason
from mse_grad_server.errors import SharedMemoryUnusable
from mse_grad_server.shared_memory.memfd import inspect_memfd, map_memfd
from support.same_host.frozen_file import frozen_file
from support.same_host.handover import SEALS, memfd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory without a name needs Linux")

PAGE_BYTES = 4096


def refusal(descriptor: int) -> str:
    with pytest.raises(SharedMemoryUnusable) as refused:
        inspect_memfd(descriptor)
    assert refused.value.reason is Reason.SHARED_MEMORY_UNUSABLE
    return str(refused.value)


def test_sealed_memory_is_accepted_and_may_be_written() -> None:
    with memfd(PAGE_BYTES) as descriptor:
        found = inspect_memfd(descriptor)
        assert (found.size_bytes, found.is_writable) == (PAGE_BYTES, True)
        mapping = map_memfd(descriptor, found)
        mapping[:2] = b"ab"
        assert os.pread(descriptor, 2, 0) == b"ab"


def test_accepted_memory_never_shrinks() -> None:
    with memfd(PAGE_BYTES) as descriptor:
        mapping = map_memfd(descriptor, inspect_memfd(descriptor))
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert mapping[PAGE_BYTES - 1] == 0


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE], ids=str)
def test_memory_whose_size_may_change_is_refused(seals: int) -> None:
    with memfd(PAGE_BYTES, seals=seals) as descriptor:
        assert "F_SEAL_SHRINK and F_SEAL_GROW" in refusal(descriptor)


def test_empty_memory_is_refused() -> None:
    with memfd(0) as descriptor:
        assert "ftruncate" in refusal(descriptor)


def test_huge_pages_are_refused() -> None:
    try:
        with memfd(2 * 2**20, flags=os.MFD_HUGETLB) as descriptor:
            assert "MFD_HUGETLB" in refusal(descriptor)
    except OSError as error:
        pytest.skip(f"this kernel has no huge pages: {error}")


@pytest.mark.parametrize("folder", ["disk", "/dev/shm"])
def test_a_file_is_refused(folder: str, tmp_path: Path) -> None:
    path = (tmp_path if folder == "disk" else Path(folder)) / f"mse-grad-test-{os.getpid()}"
    try:
        with path.open("w+b") as file:
            file.truncate(PAGE_BYTES)
            assert "memfd_create" in refusal(file.fileno()) or "F_SEAL_SHRINK" in refusal(file.fileno())
    finally:
        path.unlink()


def test_a_file_is_refused_without_asking_its_file_system(tmp_path: Path) -> None:
    with frozen_file(tmp_path) as file:
        descriptor = os.open(file.path, os.O_RDWR)
        assert "memfd_create" in refusal(descriptor)
        assert not file.asked.is_set()
    with suppress(OSError):  # the file system has ended
        os.close(descriptor)


def test_a_python_without_the_names_of_seals_maps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with memfd(PAGE_BYTES) as descriptor:
        for name in [name for name in dir(fcntl) if "SEAL" in name]:
            monkeypatch.delattr(fcntl, name)
        assert inspect_memfd(descriptor).is_writable


@pytest.mark.parametrize("make", [os.pipe, lambda: (os.open("/dev/null", os.O_RDWR),) * 1], ids=["pipe", "device"])
def test_a_descriptor_of_no_memory_is_refused(make: Callable[[], tuple[int, ...]]) -> None:
    descriptors = make()
    try:
        assert "memfd_create" in refusal(descriptors[0])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.mark.parametrize("how", ["sealed", "future writes sealed", "opened for reading"])
def test_read_only_memory_is_mapped_read_only(how: str) -> None:
    seals = {"sealed": SEALS | fcntl.F_SEAL_WRITE, "future writes sealed": SEALS | 0x10}.get(how, SEALS)
    with memfd(PAGE_BYTES, seals=seals) as made:
        descriptor = os.open(f"/proc/self/fd/{made}", os.O_RDONLY if how == "opened for reading" else os.O_RDWR)
        try:
            found = inspect_memfd(descriptor)
            assert not found.is_writable
            mapping = map_memfd(descriptor, found)
            with pytest.raises(TypeError):
                mapping[:1] = b"a"
        finally:
            os.close(descriptor)
