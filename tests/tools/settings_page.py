"""Tables of docs/settings.md, generated from the settings model, so that each help text is written once.

PYTHONPATH=tests .venv/bin/python -m tools.settings_page    # writes the tables into docs/settings.md
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mse_grad_server.settings.model import Settings, size_text

__all__ = ["PAGE", "page_with_tables"]

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

_BOUNDS = {"ge": "from", "gt": "above", "le": "to"}
_TABLE = re.compile(r"(<!-- settings: ([\w ]+) -->)\n(?:\n(?:\|[^\n]*\n)+)?")


def page_with_tables(page: str) -> str:
    """Returns `page` with a new table after each comment `<!-- settings: NAME ... -->`, with a row for each name.

    Raises:
        ValueError: A setting of the model is in no comment, or a name in a comment is no setting or occurs twice.
    """
    named = [name for match in _TABLE.finditer(page) for name in match[2].split()]
    if sorted(named) != sorted(Settings.model_fields):
        missing, unknown = sorted({*Settings.model_fields} - {*named}), sorted({*named} - {*Settings.model_fields})
        twice = sorted({name for name in named if named.count(name) > 1})
        raise ValueError(
            f"the comments `<!-- settings: ... -->` of {PAGE.name} must name every setting once: "
            f"missing are {missing}, no settings are {unknown}, named twice are {twice}"
        )
    return _TABLE.sub(lambda match: "\n".join([match[1], *_table(match[2].split()), ""]), page)


def _table(names: list[str]) -> list[str]:
    rows = [_row(name, Settings.model_fields[name]) for name in names]
    return ["", "| flag | default | allowed | |", "|---|---|---|---|", *rows]


def _row(name: str, field: FieldInfo) -> str:
    flag = f"--{name.replace('_', '-')}"
    text = (field.description or "").replace("|", "\\|")
    return f"| `{flag}` | {_default(field)} | {_allowed(field)} | {text} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "depends on the host"
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return f"`{_text(field.default, field)}`" if field.default != "" else ""


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    bounds = [
        f"{word} {_text(getattr(bound, name), field)}"
        for bound in field.metadata
        for name, word in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    return " ".join(bounds)


def _text(value: Any, field: FieldInfo) -> str:
    if field.annotation is ByteSize:
        return size_text(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
