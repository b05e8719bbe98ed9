"""Pages of the site for files of the repository, and links between them.

Pages of `docs/` link to each other and to files of the repository by relative paths, as they do in a checkout. On the
site, a file outside of `docs/` gets a page below `repository/`: Markdown as it is, a source file in a code block, a
folder as a list of its files. Nothing here imports MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RepositoryPages", "as_python_markdown"]

_DOCS = "docs/"
_OUTSIDE = "repository/"
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})")
# The target of a Markdown link or picture that is no address and no heading of the same page.
_LINK = re.compile(r"(?<=\]\()(?![a-z][a-z+.-]*:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_ITEM = re.compile(r"[-*+] |\d+\. ")
_CODE_SPAN = re.compile(r"`[^`\n]+`")
_LANGUAGES = {".py": "python", ".cpp": "cpp", ".h": "cpp", ".proto": "protobuf", ".yaml": "yaml", ".yml": "yaml"}


@dataclass(frozen=True)
class RepositoryPages:
    """Texts of pages, with links that fit the site.

    Attributes:
        root: Folder of the checkout.
    """

    root: Path

    def page_of(self, path: str) -> str | None:
        """Returns the source of the site's page for a file or folder.

        Args:
            path: Path below `root`, with slashes.

        Returns:
            A path below the site's sources, such as "errors.md" for "docs/errors.md"; None if there is no such file.
        """
        place = self.root / path
        if place.is_dir():
            if (place / "README.md").is_file():
                return self.page_of(posixpath.join(path, "README.md"))
            return posixpath.join(_OUTSIDE, path, "index.md")
        if not place.is_file():
            return None
        if path.startswith(_DOCS):
            return path.removeprefix(_DOCS)
        return _OUTSIDE + (path if path.endswith(".md") else f"{path}.md")

    def text_of(self, path: str) -> str:
        """Returns the Markdown of the page for a file or folder, before its links are changed.

        Raises:
            UnicodeDecodeError: The file is no text.
        """
        place = self.root / path
        if place.is_dir():
            files = sorted(file.name for file in place.iterdir() if _is_shown(file))
            links = "\n".join(f"- [{name}]({name})" for name in files)
            return f"# {posixpath.normpath(path)}/\n\n{links}\n"
        text = place.read_text(encoding="utf-8")
        if path.endswith(".md"):
            return text
        return f"# {path}\n\n````{_LANGUAGES.get(place.suffix, 'text')}\n{text.rstrip()}\n````\n"

    def linked_from(self, paths: Iterable[str]) -> dict[str, str]:
        """Returns the files and folders outside of `docs/` that links lead to from `paths`, over any number of links.

        Args:
            paths: Paths below `root` to begin with; those outside of `docs/` are part of the result.

        Returns:
            The source of the site's page for each path.
        """
        waiting, seen, found = list(paths), set[str](), dict[str, str]()
        while waiting:
            path = waiting.pop()
            page = self.page_of(path)
            if path in seen or page is None:
                continue
            seen.add(path)
            if not path.startswith(_DOCS):
                found[path] = page
            if path.endswith(".md") or (self.root / path).is_dir():
                waiting.extend(target for target, _ in self._links(path, self.text_of(path)))
        return found

    def with_links_of_the_site(self, path: str, text: str) -> str:
        """Returns the text of a page with links to pages of the site.

        A link to a missing file stays as it is, and MkDocs reports it.

        Args:
            path: Path of the page's file or folder below `root`.
            text: Its Markdown.
        """
        page = self.page_of(path)
        if page is None:
            raise ValueError(f"there is no file {path!r} in {self.root}")
        folder = posixpath.dirname(page)

        def replaced(match: re.Match[str]) -> str:
            target = self.page_of(_resolved(self._folder_of(path), match["path"]))
            if target is None:
                return match[0]
            return posixpath.relpath(target, folder or ".") + (match["anchor"] or "")

        return "".join(part if is_code else _LINK.sub(replaced, part) for part, is_code in _parts(text))

    def _links(self, path: str, text: str) -> Iterator[tuple[str, str]]:
        for part, is_code in _parts(text):
            if not is_code:
                for match in _LINK.finditer(part):
                    yield _resolved(self._folder_of(path), match["path"]), match["anchor"] or ""

    def _folder_of(self, path: str) -> str:
        return path if (self.root / path).is_dir() else posixpath.dirname(path)


def as_python_markdown(text: str) -> str:
    """Returns GitHub's Markdown in the dialect of Python-Markdown.

    Python-Markdown nests by four spaces, and keeps the backslash of an escaped bar in code.
    """
    return "".join(part if is_fenced else _adapted(part) for part, is_fenced in _blocks(text))


def _adapted(part: str) -> str:
    lines, fence, shift, in_list = list[str](), "", 0, False
    for line in part.split("\n"):
        words = line.lstrip(" ")
        indent = len(line) - len(words)
        if not indent and words:
            in_list = _ITEM.match(words) is not None
        if not fence:
            # Outside of a list, four spaces make a block of code.
            shift = indent // 2 * 4 - indent if in_list and indent > 1 else 0
        deeper = " " * shift + line if words else line
        if match := _FENCE.match(line):
            fence = "" if fence else match["fence"]
        elif words.startswith("|"):
            deeper = _CODE_SPAN.sub(lambda span: span[0].replace("\\|", "|"), deeper)
        lines.append(deeper)
    return "\n".join(lines)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the pieces of a text in order, and whether each is code."""
    for block, is_fenced in _blocks(text):
        if is_fenced:
            yield block, True
            continue
        end = 0
        for span in _CODE_SPAN.finditer(block):
            # In [`name`](file) the span is the text of a link, and the target after it is no code.
            yield block[end : span.start()], False
            yield span[0], True
            end = span.end()
        yield block[end:], False


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the pieces of a text in order, and whether each is a fenced block that is not indented."""
    lines, fence = list[str](), ""
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        opens = match is not None and not fence and not match["indent"]
        closes = fence != "" and line.startswith(fence) and line.strip() == fence
        if opens and match is not None:
            yield "".join(lines), False
            lines, fence = [], match["fence"]
        lines.append(line)
        if closes:
            yield "".join(lines), True
            lines, fence = [], ""
    yield "".join(lines), bool(fence)


def _resolved(folder: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(folder, link))


def _is_shown(file: Path) -> bool:
    if not file.is_file() or file.name.startswith(".") or file.suffix in (".so", ".pyc"):
        return False
    return b"\0" not in file.read_bytes()[:4096]
