"""Groups of the settings in `--help` and in docs/settings.md."""

from __future__ import annotations

import re

from mse_grad_server.settings.groups import GROUPS
from mse_grad_server.settings.model import Settings
from tools.settings_page import PAGE


def test_every_setting_is_in_exactly_one_group() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(Settings.model_fields)


def test_the_document_has_the_same_groups() -> None:
    sections = re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    documented = {title: re.findall(r"<!-- settings: ([\w ]+) -->", text) for title, text in sections}
    assert {title: comments[0].split() for title, comments in documented.items() if comments} == {
        title: list(names) for title, names in GROUPS.items()
    }
