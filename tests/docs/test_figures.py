"""docs/figures.md and the tables of docs/when-not.md and README.md, compared with the pages that claim the figures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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


def test_the_table_of_the_readme_is_that_of_the_benchmarks() -> None:
    measured = report.table_below(report.BENCHMARKS.read_text(encoding="utf-8"), "Time of one gradient")
    named = {re.sub(r" \(.*?\)", "", name): times for name, times in measured.items()}
    shown = report.table_below(report.README.read_text(encoding="utf-8"), "How fast")
    for row, times in shown.items():
        name = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", row).replace("mse-grad", "`compute`")
        assert (name, times) == (name, named.get(name))


def test_a_claim_that_left_its_page_is_reported() -> None:
    with pytest.raises(ValueError, match=r"docs/status.md no longer says 'the moon is # km away'"):
        report.claims_of({"page": "docs/status.md", "text": "the moon is # km away"})


def test_a_claim_without_a_command_was_measured_by_hand_and_a_column_without_a_head_is_no_figure(
    tmp_path: Path,
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n## Speed\n\n| | time | |\n|---|---|---|\n| tcp | 2 us | over loopback |\n", encoding="utf-8"
    )
    entry = {"group": "Speed", "page": str(page), "table": "Speed", "machine": "two cores"}
    (claim,) = report.claims_of(entry)
    assert (claim.claim, claim.command) == ("Speed, tcp. time: 2 us", "")
    assert report.row(claim) == "| Speed, tcp. time: 2 us | [page.md](page.md) | by hand | two cores"


def test_a_name_says_of_what_the_words_of_a_page_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It took\n2.5 ms.\n", encoding="utf-8")
    entry = {"group": "Speed", "page": str(page), "name": "TCP", "text": "took # ms", "machine": "two cores"}
    (claim,) = report.claims_of(entry)
    assert (claim.claim, claim.words) == ("TCP: took 2.5 ms", "took\n2.5 ms")


def test_a_figure_has_the_commit_that_stated_it_not_one_that_wrapped_its_line(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def committed(text: str) -> str:
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        git("add", "page.md")
        git("commit", "--message", "State it")
        return git("log", "--max-count=1", "--format=%as, %h").strip()

    def claim(words: str) -> report.Claim:
        return report.Claim("Speed", words, "page.md", words, "make bench", "two cores")

    git("init")
    first = committed("A worker took 5.5 s to start.\n")
    second = committed("A worker took 4.5 s to start.\n")
    committed("The rest.\n\nA worker took 4.5 s\nto start.\n")
    assert first != second
    assert report.date_and_commit(claim("worker took 4.5 s\nto start"), repository=tmp_path) == second
    with pytest.raises(ValueError, match=r"page.md is not committed; commit 'took 6 s'"):
        report.date_and_commit(claim("took 6 s"), repository=tmp_path)
    (tmp_path / "page.md").write_text("A worker took 5.5 s to start.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page.md is not committed"):
        report.date_and_commit(claim("worker took 5.5 s to start"), repository=tmp_path)


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
