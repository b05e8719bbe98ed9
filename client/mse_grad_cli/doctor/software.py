"""Versions of Python and of the packages that the SDK needs."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

from mse_grad.version import VERSION
from mse_grad_cli.doctor.finding import Finding, error, ok, warning

__all__ = ["examine_software", "missing_of_extra", "version_of"]

_DISTRIBUTION = "mse-grad"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*(?P<bounds>[^;]*)(?:;(?P<marker>.*))?")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")
_NEWEST_PYTHON = (3, 13)


def version_of(name: str) -> str | None:
    """Returns the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine_software(
    version_of: Callable[[str], str | None] = version_of, *, python: tuple[int, int] = sys.version_info[:2]
) -> Iterator[Finding]:
    """Yields the findings about the software of this client.

    Args:
        version_of: Returns the version of an installed distribution, or None.
        python: Version of the interpreter.
    """
    yield ok("mse-grad", f"{VERSION} on {platform.system()}, {platform.machine()}")
    if version_of(_DISTRIBUTION) is None:
        yield warning(
            "packages",
            "mse-grad runs without being installed, so the required versions are unknown",
            "install it with pip, or compare the versions with its pyproject.toml",
        )
    found = f"{python[0]}.{python[1]}"
    if python > _NEWEST_PYTHON:
        yield warning("python", f"{found} is newer than the tested versions", "if something fails, use 3.11 to 3.13")
    else:
        yield ok("python", found)
    for name, bounds in _requirements(extra=""):
        version = version_of(name)
        if version is None:
            yield error(name, "is not installed", f"pip install '{name}{bounds}'")
        elif not _is_within(version, bounds):
            yield error(name, f"{version} does not satisfy {bounds}", f"pip install '{name}{bounds}'")
        else:
            yield ok(name, version)


def missing_of_extra(extra: str, version_of: Callable[[str], str | None] = version_of) -> list[str]:
    """Returns the distributions of an extra of mse-grad that are not installed."""
    return [name for name, _ in _requirements(extra=extra) if version_of(name) is None]


def _requirements(*, extra: str) -> Iterator[tuple[str, str]]:
    try:
        requirements = metadata.requires(_DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            continue
        marker = found["marker"] or ""
        if (f"'{extra}'" in marker or f'"{extra}"' in marker) if extra else not marker:
            yield found["name"], found["bounds"].strip()


def _is_within(version: str, bounds: str) -> bool:
    for relation, bound in _BOUND.findall(bounds):
        if (_numbers(version) >= _numbers(bound)) is not (relation == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
