"""Events of MkDocs: pages for files of the repository, links between them, help texts of the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from mkdocs.structure.files import File, Files

from mse_grad_cli.commands import mse_grad
from repository_pages import RepositoryPages, as_python_markdown

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

__all__ = ["help_of", "on_files", "on_page_markdown"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = RepositoryPages(ROOT)
# Pages of the navigation outside of docs/. Links lead to the others.
OUTER_PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "op_host/README.zh.md")
_HELP = re.compile(r"<!-- help: mse-grad(?P<command>(?: \w+)?) -->")
_HELP_COLUMNS = 100


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file of the repository that a page leads to."""
    written = [file.src_uri for file in files.documentation_pages()]
    for path, page in PAGES.linked_from([*OUTER_PAGES, *(f"docs/{name}" for name in written)]).items():
        files.append(File.generated(config, page, content=PAGES.text_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page's text with the site's links, in the dialect of Python-Markdown."""
    text = PAGES.with_links_of_the_site(_path_of(page.file.src_uri), markdown)
    return as_python_markdown(_HELP.sub(lambda match: help_of(match["command"].split()), text))


def help_of(names: list[str]) -> str:
    """Returns the help text of the command `mse-grad` or of the subcommand with these names, in a code block."""
    command: click.Command = mse_grad
    for name in names:
        command = mse_grad.commands[name]
    context = click.Context(command, info_name=" ".join(["mse-grad", *names]), terminal_width=_HELP_COLUMNS)
    return f"```text\n{command.get_help(context)}\n```"


def _path_of(page: str) -> str:
    """Returns the path in the repository of the file or folder behind a page."""
    path = page.removeprefix("repository/")
    if path == page:
        return f"docs/{page}"
    if (ROOT / path).is_file():
        return path
    return path.removesuffix("/index.md") if path.endswith("/index.md") else path.removesuffix(".md")
