"""Groups of the settings in `--help` and in docs/settings.md."""

from __future__ import annotations

import re
from pathlib import Path

from mse_grad_server.settings.groups import GROUPS
from mse_grad_server.settings.model import Settings
from tools.settings_page import PAGE

SERVER = Path(__file__).parents[3] / "server" / "mse_grad_server"


def test_every_setting_is_in_exactly_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(set(Settings.model_fields) - set(grouped)) == [], "add it to a group in settings/groups.py"
    assert sorted(grouped) == sorted(Settings.model_fields)


def test_the_document_has_the_same_groups() -> None:
    sections = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    documented = {title: re.findall(r"<!-- settings: ([\w ]+) -->", text) for title, text in sections}
    assert {title: comments[0].split() for title, comments in documented.items() if comments} == {
        title: list(names) for title, names in GROUPS.items()
    }, "the same names in the same order belong into the comments of docs/settings.md and into settings/groups.py"


def test_every_setting_is_read_by_some_module() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SERVER.rglob("*.py"))
    assert [name for name in Settings.model_fields if not re.search(rf"\.{name}\b", text)] == []
