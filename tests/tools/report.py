"""Figures of record: docs/figures.md, the tables of docs/when-not.md and of README.zh.md, read from other pages.

`make report` writes all three. docs/site/figures.yaml lists the claims. Date and commit of a claim are those of the
commit that gave it its words and figures, by `git log -S`: a changed figure gets the date of its change, and a line
that was only wrapped keeps its date.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "BENCHMARKS",
    "FIGURES",
    "README",
    "WHEN_NOT",
    "Claim",
    "claims",
    "claims_of",
    "comparison_tables",
    "date_and_commit",
    "figures_page",
    "row",
    "rows_without_date",
    "seconds_of",
    "table_below",
    "with_figures_of",
]

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures.md"
WHEN_NOT = ROOT / "docs" / "when-not.md"
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
# Beginnings of rows in the table of benchmarks.md.
_KERNEL = "the kernel alone"
_OURS = "`compute`"
_HEAD = """# Figures of record

Every figure of speed, load, numerics, memory, recovery, attacks and tests that was measured and that a page claims,
with that page, the command that measures it again, and the date and commit that stated it. No script repeats those "by
hand". Figures that follow from others are not repeated here, nor are bounds and settings. `make report` makes this
page; a test shows if it is stale. Measure on your own machine before you rely on a figure: speeds of the same code
differ by a third between machines, and more under load.

Nothing here was measured on an NPU.
"""


_COLUMNS = "| claim | page | measured by | machine | date, commit |"


@dataclass(frozen=True)
class Claim:
    """A figure, or the figures of a row of a table.

    Attributes:
        group: Heading on the page.
        claim: The claim in words, figures included.
        page: Path of the page that claims it.
        words: Its words and figures as they stand on the page.
        command: Command that measures it again, or "" if it was measured by hand.
        machine: Name of the machine that measured it.
    """

    group: str
    claim: str
    page: str
    words: str
    command: str
    machine: str


def claims() -> list[Claim]:
    """Returns all claims, in the order of docs/site/figures.yaml.

    Raises:
        ValueError: A page no longer has a claim of that file.
    """
    return [claim for entry in _described()["claims"] for claim in claims_of(entry)]


def claims_of(entry: Mapping[str, Any]) -> list[Claim]:
    """Returns the claims of one entry of that file: one in words, or one for each row of a table.

    Raises:
        ValueError: The page no longer has it.
    """
    page = (ROOT / entry["page"]).read_text(encoding="utf-8")
    found = _table_claims(page, entry) if "table" in entry else [_text_claim(page, entry)]
    common = {name: entry[name] for name in ("group", "page", "machine")}
    return [Claim(claim=claim, words=words, command=entry.get("command", ""), **common) for words, claim in found]


def rows_without_date() -> list[str]:
    """Returns the rows of docs/figures.md, with the heads of its tables, but without their last column."""
    lines, group = list[str](), ""
    for claim in claims():
        if claim.group != group:
            group = claim.group
            lines.append(_COLUMNS.rpartition(" | ")[0])
        lines.append(row(claim))
    return lines


def figures_page(page: str) -> str:
    """Returns docs/figures.md; claims that stand in `page` with the same figures keep their date and commit.

    Args:
        page: The page as it is, or "".
    """
    known = {line.rpartition(" | ")[0]: line for line in page.splitlines() if line.count(" | ") == 4}
    machines = [f"| {name} | {description} |" for name, description in _described()["machines"].items()]
    lines, group = [_HEAD, "| machine | |", "|---|---|", *machines], ""
    for claim in claims():
        if claim.group != group:
            group = claim.group
            lines += ["", f"## {group}", "", _COLUMNS, "|---" * (_COLUMNS.count("|") - 1) + "|"]
        lines.append(known.get(row(claim)) or f"{row(claim)} | {date_and_commit(claim)} |")
    return "\n".join(lines) + "\n"


def row(claim: Claim) -> str:
    """Returns the row of a claim on docs/figures.md, but without its last column."""
    name = Path(claim.page).name
    measured_by = f"`{claim.command}`" if claim.command else "by hand"
    return f"| {claim.claim} | [{name}]({name}) | {measured_by} | {claim.machine}"


def date_and_commit(claim: Claim, *, repository: Path = ROOT) -> str:
    """Returns date and commit of the last change of a claim's words or figures; blanks and punctuation do not count.

    Raises:
        ValueError: The claim stands in no commit, or the page has changes that are not committed.
    """
    # For git a negated set matches no end of line.
    pattern = r"\b" + "([^[:alnum:]]|[[:space:]])+".join(re.findall(r"\w+", claim.words)) + r"\b"
    log = ["log", "--max-count=1", "--format=%as, %h", "--pickaxe-regex", f"-S{pattern}", "--", claim.page]
    found = "" if _git(repository, "status", "--porcelain", "--", claim.page) else _git(repository, *log)
    if not found:
        raise ValueError(f"{claim.page} is not committed; commit {claim.claim!r}, then run `make report`")
    return found


def comparison_tables(page: str) -> str:
    """Returns docs/when-not.md with new tables after its comments `<!-- figures: NAME -->`."""
    rows = table_below(BENCHMARKS.read_text(encoding="utf-8"), "Time of one gradient")
    sizes = rows.pop("")
    tables = {"wire": list(_wire_table(sizes, rows)), "tools": list(_tools_table(sizes, rows))}
    pattern = re.compile(r"(<!-- figures: (\w+) -->)\n(?:\n(?:\|[^\n]*\n)+)?")
    return pattern.sub(lambda match: "\n".join([match[1], "", *tables[match[2]], ""]), page)


def with_figures_of(english: str, chinese: str) -> str:
    """Returns the Chinese README with the figures of the English one in its table of speeds.

    Raises:
        ValueError: The tables have different numbers of rows.
    """
    figures = [cells for _, (_, *cells) in _rows_below(english, "How fast")][1:]
    rows = _rows_below(chinese, "有多快")[1:]
    if len(rows) != len(figures):
        raise ValueError(f"the table of README.zh.md has {len(rows)} rows, that of README.md {len(figures)}")
    lines = chinese.splitlines(keepends=True)
    for (number, (name, *_)), cells in zip(rows, figures, strict=True):
        lines[number - 1] = _line(name, cells) + "\n"
    return "".join(lines)


def table_below(page: str, heading: str) -> dict[str, list[str]]:
    """Returns the first table below a heading: cells by the first cell of their row, that of the head included.

    Raises:
        ValueError: There is no such table.
    """
    return {cells[0]: cells[1:] for _, cells in _rows_below(page, heading)}


def seconds_of(time: str) -> float:
    """Returns the seconds of a text such as "0.31 ms"."""
    value, unit = time.split()
    return float(value.replace(",", "")) * _UNITS_S[unit]


def _described() -> Any:
    return yaml.safe_load((ROOT / "docs" / "site" / "figures.yaml").read_text(encoding="utf-8"))


def _table_claims(page: str, entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    (_, (_, *head)), *rows = _rows_below(page, entry["table"])
    found = []
    for _, (name, *cells) in rows:
        figures = " · ".join(f"{column}: {cell}" for column, cell in zip(head, cells, strict=True) if column and cell)
        found.append((_line(name, cells), f"{entry.get('name', entry['table'])}, {name}. {figures}"))
    return found


def _text_claim(page: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    words = [re.escape(part) for part in entry["text"].split("#")]
    match = re.search(r"\d(?:[\d.,]*\d)?".join(words).replace("\\ ", r"\s+"), page)
    if match is None:
        raise ValueError(f"{entry['page']} no longer says {entry['text']!r}; correct docs/site/figures.yaml")
    claim = " ".join(match[0].split())
    return match[0], f"{entry['name']}: {claim}" if "name" in entry else claim


def _rows_below(page: str, heading: str) -> list[tuple[int, list[str]]]:
    lines = page.splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip("# ") == heading and line[0] == "#"), None)
    rows: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines[start:] if start is not None else [], (start or 0) + 1):
        if line.startswith("|"):
            rows.append((number, [cell.strip() for cell in line.strip("|").split("|")]))
        elif rows:
            break
    if len(rows) < 3:
        raise ValueError(f"there is no table below the heading {heading!r}")
    return [rows[0], *rows[2:]]


def _wire_table(sizes: list[str], rows: Mapping[str, list[str]]) -> Iterator[str]:
    yield _line("", sizes)
    yield "|---" * (len(sizes) + 1) + "|"
    ((name, kernel),) = ((name, times) for name, times in rows.items() if name.startswith(_KERNEL))
    yield _line(name, kernel)
    for row, times in rows.items():
        if row.startswith(_OURS):
            multiples = [seconds_of(time) / seconds_of(alone) for time, alone in zip(times, kernel, strict=True)]
            yield _line(row, [f"{time}, {_multiple(each)} times" for time, each in zip(times, multiples, strict=True)])


def _tools_table(sizes: list[str], rows: Mapping[str, list[str]]) -> Iterator[str]:
    yield _line("", sizes)
    yield "|---" * (len(sizes) + 1) + "|"
    for row, times in rows.items():
        yield _line(f"mse-grad, {row}" if row.startswith(_OURS) else row, times)


def _line(name: str, cells: list[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |" if name else "| | " + " | ".join(cells) + " |"


def _multiple(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    FIGURES.write_text(figures_page(FIGURES.read_text(encoding="utf-8") if FIGURES.exists() else ""), encoding="utf-8")
    CHINESE.write_text(with_figures_of(README.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8")))
    WHEN_NOT.write_text(comparison_tables(WHEN_NOT.read_text(encoding="utf-8")), encoding="utf-8")
