"""The check of the built site finds each kind of broken link."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.site_links import broken_links, pages_of

PAGES = {
    "index.html": '<h1 id="top">a</h1><a href="more/page.html#part">b</a><a href="more/">c</a><img src="a.png">',
    "more/page.html": '<h2 id="part">a</h2><a href="../index.html#top">b</a><a href="https://example.org/x#y">c</a>',
    "more/index.html": '<a href="#">a</a><a href="mailto:a@example.org">b</a>',
    "404.html": '<a href="/mse-grad/nowhere.html">a</a>',
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in PAGES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "a.png").touch()
    return tmp_path


def test_a_sound_site_has_no_broken_link(site: Path) -> None:
    pages = pages_of(site)
    assert len(pages) == 3
    assert list(broken_links(pages)) == []


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ('<a href="gone.html">', "leads to no file"),
        ('<img src="gone.png">', "leads to no file"),
        ('<a href="more/page.html#gone">', "leads to no anchor"),
        ('<a href="#gone">', "leads to no anchor"),
        ('<a href="https:///path">', "names no host"),
    ],
)
def test_a_broken_link_is_found(site: Path, link: str, words: str) -> None:
    page = site / "index.html"
    page.write_text(page.read_text(encoding="utf-8") + link, encoding="utf-8")
    (found,) = broken_links(pages_of(site))
    assert words in found
