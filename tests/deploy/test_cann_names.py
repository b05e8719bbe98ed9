"""Names of CANN that are deprecated since 8.5 and may be removed after 2026: no file tries one alone or first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.npu.simulator import ROOT

# The current name, and the older one.
NAMES = {
    "runtime": (r"libacl_rt\.so|\bacl_rt\b", r"libascendcl\.so|-lascendcl|(?<!acl_rt) ascendcl\)"),
    "header of the log": (r"dlog_pub\.h", r"slog\.h"),
    "folder of the toolkit": (r"[/\"]cann\b(?![-:])", r"ascend-toolkit"),
    "image": (r"ascend/cann:9\.", r"ascend/cann:8\."),
}
ROOMS = ("client", "deploy", "docs", "kernel", "op_host", "proto", "server", "tests")


def files() -> Iterator[Path]:
    """Yields the text files of the repository, except generated ones."""
    built = ROOT / "op_host" / "build_out"
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            is_text = path.is_file() and path.suffix not in (".pyc", ".so", ".npz", ".png")
            if is_text and path != Path(__file__) and not path.is_relative_to(built):
                yield path
    yield from (ROOT / name for name in ("Dockerfile", "Makefile", "README.md", "pyproject.toml"))


def is_wrong(text: str, today: str, older: str) -> bool:
    found_older, found_today = re.search(older, text), re.search(today, text)
    return found_older is not None and (found_today is None or found_older.start() < found_today.start())


@pytest.mark.parametrize(("today", "older"), NAMES.values(), ids=NAMES)
def test_no_file_tries_the_older_name_alone_or_first(today: str, older: str) -> None:
    wrong = [path for path in files() if is_wrong(path.read_text(encoding="utf-8"), today, older)]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('CDLL("libascendcl.so")', True),
        ("target_link_libraries(example PRIVATE nnopbase ascendcl)", True),
        ('("libascendcl.so", "libacl_rt.so")', True),
        ('("libacl_rt.so", "libascendcl.so")', False),
        ("find_library(ACL_RUNTIME NAMES acl_rt ascendcl)", False),
    ],
)
def test_the_search_sees_a_name_that_is_alone_or_first(text: str, wrong: bool) -> None:
    assert is_wrong(text, *NAMES["runtime"]) == wrong
