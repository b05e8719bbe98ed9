"""docs/figures.md and the tables of docs/when-not.md, compared with the pages that claim the figures."""

from __future__ import annotations

import pytest

from tools import report

STALE = "stale: commit the changed figures, then run `make report`"


def test_every_claim_of_a_page_is_on_the_page_of_figures() -> None:
    page = report.FIGURES.read_text(encoding="utf-8")
    listed = [line.rpartition(" | ")[0] for line in page.splitlines() if line.count(" | ") == 4]
    assert listed == report.rows_without_date(), STALE


def test_the_tables_beside_other_tools_are_those_of_the_benchmarks() -> None:
    page = report.WHEN_NOT.read_text(encoding="utf-8")
    assert page == report.comparison_tables(page), STALE


def test_a_claim_that_left_its_page_is_reported() -> None:
    with pytest.raises(ValueError, match=r"docs/status.md no longer says 'the moon is # km away'"):
        report.claims_of({"page": "docs/status.md", "text": "the moon is # km away"})


def test_the_chinese_readme_gets_the_figures_of_the_english_one() -> None:
    english = "## How fast\n\n| | 1K |\n|---|---|\n| TCP | 2 us |\n"
    chinese = "## 有多快\n\n| | 1K |\n|---|---|\n| 网络 | 1 us |\n\n以上。\n"
    assert report.with_figures_of(english, chinese) == chinese.replace("1 us", "2 us")
    with pytest.raises(ValueError, match=r"has 1 rows, that of README.md 2"):
        report.with_figures_of(english + "| unix | 1 us |\n", chinese)


@pytest.mark.parametrize(
    ("time", "seconds"), [("89 us", 89e-6), ("0.31 ms", 0.31e-3), ("1.5 s", 1.5), ("1,200 us", 1.2e-3)]
)
def test_times_of_tables_are_read_in_seconds(time: str, seconds: float) -> None:
    assert report.seconds_of(time) == pytest.approx(seconds)
