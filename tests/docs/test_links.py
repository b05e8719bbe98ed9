"""Links of pages on the site, and GitHub's Markdown in the dialect of Python-Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from repository_pages import RepositoryPages, as_python_markdown
from support.tools import require_module


@pytest.fixture
def pages(tmp_path: Path) -> RepositoryPages:
    """Pages of a small checkout."""
    files = {
        "README.md": "[errors](docs/errors.md#reasons) [program](client/run.py) [folder](client)",
        "docs/errors.md": "# Errors\n[start](start/sdk.md)",
        "docs/start/sdk.md": "# SDK\n[overview](../../README.md) [`code`](../../client/run.py)",
        "client/run.py": "print(1)\n",
        "client/.hidden": "",
        "op_host/README.md": "# Operators",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return RepositoryPages(tmp_path)


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("docs/start/sdk.md", "start/sdk.md"),
        ("README.md", "repository/README.md"),
        ("client/run.py", "repository/client/run.py.md"),
        ("client", "repository/client/index.md"),
        ("op_host", "repository/op_host/README.md"),
        ("nowhere.md", None),
    ],
)
def test_every_file_and_folder_has_one_page(pages: RepositoryPages, path: str, page: str | None) -> None:
    assert pages.page_of(path) == page


@pytest.mark.parametrize(
    ("path", "text", "changed"),
    [
        ("docs/start/sdk.md", "[a](../errors.md#reasons)", "[a](../errors.md#reasons)"),
        ("docs/start/sdk.md", "[a](../../README.md)", "[a](../repository/README.md)"),
        (
            "docs/errors.md",
            "[`a`](../client/run.py) and ![b](../client)",
            "[`a`](repository/client/run.py.md) and ![b](repository/client/index.md)",
        ),
        ("README.md", "[a](docs/errors.md#reasons)", "[a](../errors.md#reasons)"),
        ("docs/errors.md", "`[a](../README.md)` [b](#reasons) [c](https://example.org/x.md)", "the same"),
        ("docs/errors.md", "```\n[a](../README.md)\n```\n", "the same"),
        ("docs/errors.md", "[a](missing.md)", "the same"),
    ],
)
def test_links_lead_to_pages_of_the_site(pages: RepositoryPages, path: str, text: str, changed: str) -> None:
    assert pages.with_links_of_the_site(path, text) == (text if changed == "the same" else changed)


def test_a_page_of_a_missing_file_is_an_error(pages: RepositoryPages) -> None:
    with pytest.raises(ValueError, match=r"there is no file 'docs/gone.md'"):
        pages.with_links_of_the_site("docs/gone.md", "")


def test_linked_files_become_pages_over_any_number_of_links(pages: RepositoryPages) -> None:
    assert pages.linked_from(["docs/errors.md"]) == {
        "README.md": "repository/README.md",
        "client": "repository/client/index.md",
        "client/run.py": "repository/client/run.py.md",
    }
    assert pages.text_of("client") == "# client/\n\n- [run.py](run.py)\n"
    assert pages.text_of("client/run.py") == "# client/run.py\n\n````python\nprint(1)\n````\n"


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("- a\n  - b\n", "- a\n    - b\n"),
        ("- a\n  ```sh\n  if\n    x\n  ```\n", "- a\n    ```sh\n    if\n      x\n    ```\n"),
        ("1. a\n\n   b\n", "1. a\n\n    b\n"),
        ("a:\n\n    code\n", "a:\n\n    code\n"),
        ("- a\n\nb:\n\n    code\n", "- a\n\nb:\n\n    code\n"),
        ("| `a \\| b` | c \\| d |\n", "| `a | b` | c \\| d |\n"),
        ("```\n  kept\n```\n", "```\n  kept\n```\n"),
    ],
)
def test_nesting_and_bars_are_those_of_python_markdown(text: str, changed: str) -> None:
    assert as_python_markdown(text) == changed


@pytest.mark.slow  # like all tests that need more than `make test` installs
def test_help_texts_are_those_of_the_command() -> None:
    require_module("mkdocs")
    import hook

    assert "Usage: mse-grad bench" in hook.help_of(["bench"])
