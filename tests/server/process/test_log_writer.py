from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mse_grad_server.process.log_writer import LogWriter, lost_lines_counter
from support.waiting import PATIENCE_S, wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    with ExitStack() as stack:
        for end in (reader, writer):
            stack.callback(os.close, end)
        yield reader, writer


def opened(descriptor: int) -> LogWriter:
    writer = LogWriter(descriptor, lost_lines_counter())
    writer.open()
    return writer


def lost(writer: LogWriter, reason: str) -> float:
    (family,) = writer.lost.collect()
    return next(at.value for at in family.samples if at.labels == {"reason": reason})


def test_the_last_lines_are_written_before_it_is_closed(pipe: tuple[int, int]) -> None:
    with closing(opened(pipe[1])) as writer:
        for number in range(100):
            writer.write(f"{number}\n")
    assert os.read(pipe[0], 2**16).splitlines() == [b"%d" % number for number in range(100)]
    writer.close()


def test_a_pipe_without_a_reader_blocks_no_caller_and_loses_lines(pipe: tuple[int, int]) -> None:
    size = fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    writer = opened(pipe[1])
    for _ in range(5000):
        writer.write("x" * 99 + "\n")
    kept = 5000 - lost(writer, "backlog")
    assert 1024 <= kept <= 1024 + size // 100 + 2
    writer.close(timeout_s=0)
    writer.write("after its end\n")
    assert lost(writer, "backlog") == 5000 - kept + 1
    received = b""
    while received.count(b"\n") < kept:  # when the pipe is read again
        received += os.read(pipe[0], 4096)
    writer.close(PATIENCE_S)


def test_a_full_non_blocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(pipe[1], False)
    writer = opened(pipe[1])
    for _ in range(500):
        writer.write("x" * 99 + "\n")
    received = b""
    while len(received) < 50_000:
        received += os.read(pipe[0], 4096)
    writer.close(PATIENCE_S)
    assert received == (b"x" * 99 + b"\n") * 500


def test_a_closed_pipe_only_loses_lines() -> None:
    reader, end = os.pipe()
    os.close(reader)
    with closing(opened(end)) as writer:
        writer.write("not read\n")
    os.close(end)
    assert lost(writer, "write_error") == 1


def test_a_full_disk_only_loses_lines() -> None:
    with open("/dev/full", "w") as full, closing(opened(full.fileno())) as writer:
        for _ in range(3):
            writer.write("no room\n")
        wait_until(lambda: lost(writer, "write_error") == 3)


def test_a_line_after_a_cut_line_starts_on_a_new_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    room = iter([4, -1])  # number of bytes that each write stores; -1 fails

    def write(descriptor: int, data: bytes) -> int:
        taken_bytes = next(room, len(data))
        if taken_bytes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(descriptor, data[:taken_bytes])

    with open(tmp_path / "log", "wb") as file:
        monkeypatch.setattr(os, "write", write)
        with closing(opened(file.fileno())) as writer:
            writer.write("cut here\n")
            writer.write("whole\n")
        monkeypatch.undo()
    assert (tmp_path / "log").read_bytes() == b"cut \nwhole\n"
    assert lost(writer, "write_error") == 1


def test_it_ticks_without_lines_to_write(pipe: tuple[int, int]) -> None:
    ticked = threading.Event()
    writer = LogWriter(pipe[1], lost_lines_counter())
    writer.on_tick = ticked.set
    with closing(writer):
        writer.open()
        assert ticked.wait(PATIENCE_S)
