"""Metadata of a request: a few words of the caller's, for logs and traces alone; the same bounds on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

__all__ = [
    "MAX_METADATA_ENTRIES",
    "METADATA_PREFIX",
    "METADATA_TEXT",
    "NO_METADATA",
    "REQUEST_ID_TEXT",
    "is_metadata_entry",
    "is_request_id",
    "valid_metadata",
]

MAX_METADATA_ENTRIES = 16
"""Most entries of one request; with the bounds of an entry, at most 5 KiB."""

METADATA_PREFIX = "x-mse-grad-"
"""The prefix of their keys in the metadata of an RPC; a stream carries them in the header of each request."""

METADATA_TEXT = (
    "at most 16 entries, each with a key of 1 to 64 characters (a-z, 0-9, '_', '.', '-', the first a letter or a "
    "digit) and a value of at most 256 characters of printable ASCII"
)
"""The bounds of metadata, for messages."""
NO_METADATA: Mapping[str, str] = MappingProxyType({})
"""The metadata of most requests."""

REQUEST_ID_TEXT = "1 to 128 characters of printable ASCII"
"""The bounds of a request id, for messages."""

_KEY = r"[a-z0-9][a-z0-9_.-]{0,63}"
_MOST_VALUE, _MOST_REQUEST_ID = 256, 128


def is_request_id(text: object) -> bool:
    """Whether `text` can name a request: a str of 1 to 128 characters of printable ASCII."""
    return isinstance(text, str) and 0 < len(text) <= _MOST_REQUEST_ID and _is_printable_ascii(text)


def is_metadata_entry(key: object, value: object) -> bool:
    """Whether both are text within the bounds of metadata."""
    return (
        isinstance(key, str)
        and isinstance(value, str)
        and re.fullmatch(_KEY, key) is not None
        and len(value) <= _MOST_VALUE
        and _is_printable_ascii(value)
    )


def valid_metadata(entries: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Returns the valid ones of the first 16 entries. They are still not to be trusted: any caller may write them."""
    kept: dict[str, str] = {}
    for _, (key, value) in zip(range(MAX_METADATA_ENTRIES), entries, strict=False):
        if is_metadata_entry(key, value):
            kept[key] = value
    return kept


def _is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()
