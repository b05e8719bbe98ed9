"""Check of the built site: every link and picture between its pages leads to a file and, after a `#`, to an anchor.

PYTHONPATH=tests .venv/bin/python -m tools.site_links build/site    # after `mkdocs build`; `make docs` does both

MkDocs checks the links that Markdown has. This also checks those of the theme, of docstrings and of HTML, as the
browser will read them. Links to other hosts are counted, not followed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

__all__ = ["broken_links", "pages_of"]

_ATTRIBUTES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}
# MkDocs makes this page for servers, which show it at any path; its links begin with the site's root.
_ANY_PATH = "404.html"


@dataclass
class Page:
    """A page of the site.

    Attributes:
        links: Targets of its links and pictures, as they stand there.
        anchors: Names that a link can lead to.
    """

    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


def pages_of(site: Path) -> dict[Path, Page]:
    """Returns the pages below the folder `site` by their paths."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if path.name != _ANY_PATH:
            reader = _Reader()
            reader.feed(path.read_text(encoding="utf-8"))
            pages[path.resolve()] = reader.page
    return pages


def broken_links(pages: dict[Path, Page]) -> Iterator[str]:
    """Yields a line for each link that leads nowhere."""
    for path, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(link)
            address = urlparse(target)
            if address.scheme in ("http", "https", "mailto", "data"):
                if address.scheme.startswith("http") and not address.netloc:
                    yield f"{path}: {link} names no host"
                continue
            place = (path.parent / unquote(target)).resolve() if target else path
            if place.is_dir():
                place /= "index.html"
            if not place.is_file():
                yield f"{path}: {link} leads to no file"
            elif anchor and place in pages and unquote(anchor) not in pages[place].anchors:
                yield f"{path}: {link} leads to no anchor"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.page.anchors |= {given[name] for name in ("id", "name") if name in given}
        link = given.get(_ATTRIBUTES.get(tag, ""))
        if link is not None and link not in ("#", "."):
            self.page.links.append(link)


def _main(site: Path) -> int:
    pages = pages_of(site)
    if not pages:
        print(f"{site} has no pages; build the site first", file=sys.stderr)
        return 2
    broken = list(broken_links(pages))
    print("\n".join([*broken, f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links"]))
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(_main(Path(sys.argv[1])))
