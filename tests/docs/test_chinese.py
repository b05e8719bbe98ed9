"""Chinese pages beside the English ones: the same commands, code, figures, links and structure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/index.md", "docs/ascend.md", "docs/deploying.md", "op_host/README.md")
OTHER_LANGUAGE = re.compile(r"^\[(?:中文|English)\]\(\S+\)\n\n", re.MULTILINE)
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September")


def chinese(page: str) -> Path:
    return ROOT / page.replace(".md", ".zh.md")


def texts(page: str) -> tuple[str, str]:
    """Returns the English and the Chinese text without the links to each other."""
    english, translated = (path.read_text(encoding="utf-8") for path in (ROOT / page, chinese(page)))
    return OTHER_LANGUAGE.sub("", english), OTHER_LANGUAGE.sub("", translated)


def commands(text: str) -> list[str]:
    """Returns the code blocks in order, without comments and the words of diagrams."""
    blocks = []
    for language, block in FENCE.findall(text):
        if language == "mermaid":
            block = re.sub(r"\[[^\]]*\]|\"[^\"]*\"", "", block)
        blocks.append("\n".join(re.sub(r"\s+# .*$", "", line) for line in block.splitlines()))
    return blocks


def code_spans(text: str) -> Counter[str]:
    return Counter(" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)))


def links(text: str) -> Counter[str]:
    """Returns the targets of links, those to Chinese pages as English, those within the page as "#"."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    return Counter("#" if target.startswith("#") else target.replace(".zh.md", ".md") for target in targets)


def figures(text: str) -> Counter[str]:
    """Returns the numbers outside of code and addresses, months and millions among them."""
    plain = re.sub(r"`[^`]+`|\]\([^)]*\)", " ", FENCE.sub("", text))
    plain = re.sub("|".join(MONTHS), lambda month: str(MONTHS.index(month[0]) + 1), plain)
    plain = re.sub(r"(\d+) million", lambda found: f"{int(found[1]) * 1_000_000}", plain)
    plain = re.sub(r"(\d+) 万", lambda found: f"{int(found[1]) * 10_000}", plain)
    return Counter(NUMBER.findall(re.sub(r"(?<=\d)(?=[^\W\d_])", " ", plain)))


def shape(text: str) -> list[str]:
    """Returns the kinds of the lines that structure a page: headings by depth, rows of tables, items of lists."""
    lines = FENCE.sub("", text).splitlines()
    kinds = [re.match(r"#+|\||- |\d+\.", line.strip()) for line in lines]
    return [kind[0] for kind in kinds if kind is not None]


@pytest.mark.parametrize("page", PAGES)
def test_both_pages_lead_to_each_other(page: str) -> None:
    assert f"[中文]({chinese(page).name})" in (ROOT / page).read_text(encoding="utf-8")
    assert f"[English]({Path(page).name})" in chinese(page).read_text(encoding="utf-8")


@pytest.mark.parametrize("compare", [commands, code_spans, links, figures, shape])
@pytest.mark.parametrize("page", PAGES)
def test_both_pages_say_the_same(page: str, compare: Callable[[str], Any]) -> None:
    english, translated = (compare(text) for text in texts(page))
    if isinstance(english, Counter):
        assert (english - translated, translated - english) == (Counter(), Counter())
    assert english == translated


@pytest.mark.parametrize(
    ("compare", "english", "translated"),
    [
        (commands, "```sh\nmake a    # now\n```", "```sh\nmake b    # 现在\n```"),
        (code_spans, "`a` and `b`", "`a`"),
        (links, "[a](b.md)", "[甲](c.zh.md)"),
        (figures, "89 us", "88 us"),
        (shape, "## A\n| a |", "## 甲"),
    ],
)
def test_a_difference_is_found(compare: Callable[[str], Any], english: str, translated: str) -> None:
    assert compare(english) != compare(translated)
