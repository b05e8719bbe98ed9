"""Output files that are complete or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mse_grad_cli.files.output import written


def write_half(path: Path) -> None:
    with written(str(path)) as file:
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt


def test_an_interrupted_file_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "y.npy")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"old")
    with written(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with written(str(link)) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_device_is_written_to_and_stays() -> None:
    with written(os.devnull) as file:
        file.write(b"new")
    assert not Path(os.devnull).is_file()


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    with written(str(tmp_path / "y.npy")) as file:
        file.write(b"new")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "y.npy").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
def test_the_new_file_is_open_to_nobody_to_whom_the_old_one_was_closed(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"old")
    path.chmod(mode)
    with written(str(path)) as file:
        file.write(b"new")
        (partial,) = (other for other in tmp_path.iterdir() if other != path)
        assert partial.stat().st_mode & 0o777 == mode
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() == b"new"
