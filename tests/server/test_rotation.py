from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from mse_grad_server.exits import CredentialsError
from mse_grad_server.log import open_log
from mse_grad_server.rotation import Rotated


class File:
    """A file that holds a number, and is rotated.

    Attributes:
        reads: How often it was read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "number"
        self.path.write_text("1")
        self.reads = 0
        self.log = io.StringIO()
        self.rotated = Rotated([str(self.path), ""], self._read, open_log("info", "json", stream=self.log))

    def _read(self) -> int:
        self.reads += 1
        try:
            return int(self.path.read_text())
        except (OSError, ValueError) as cause:
            raise CredentialsError("it is no number") from cause

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.getvalue().splitlines()]


def test_a_file_is_read_again_only_where_it_changed(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.reads) == (1, 1)
    file.path.write_text("22")
    assert file.rotated.refresh()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.reads, file.events) == (22, 2, ["credentials_read"])


def test_a_file_that_another_one_replaces_has_changed(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.rotated.open()
    (tmp_path / "next").write_text("2")
    (tmp_path / "next").replace(file.path)
    assert file.rotated.refresh()
    assert file.rotated.value == 2


@pytest.mark.parametrize("content", ["none", None])
def test_what_cannot_be_used_leaves_what_was_and_is_logged_once(tmp_path: Path, content: str | None) -> None:
    file = File(tmp_path)
    file.rotated.open()
    if content is None:
        file.path.unlink()
    else:
        file.path.write_text(content)
    assert not file.rotated.refresh()
    assert not file.rotated.refresh()
    assert (file.rotated.value, file.events) == (1, ["credentials_kept"])
    file.path.write_text("333")
    assert file.rotated.refresh()
    assert file.rotated.value == 333


def test_at_first_a_file_has_to_be_right(tmp_path: Path) -> None:
    file = File(tmp_path)
    file.path.unlink()
    with pytest.raises(CredentialsError):
        file.rotated.open()
