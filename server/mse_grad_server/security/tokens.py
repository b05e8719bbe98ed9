"""Accepted bearer tokens and their rights, read from a file."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mse_grad_server.process.exits import CredentialsError
from mse_grad_server.security.files import read_bounded
from mse_grad_server.settings.value_types import Size

__all__ = ["Grant", "Scope", "Tokens", "digest_of", "read_tokens"]

# Form of a token: b64token of RFC 6750. 22 random characters have 128 bits; fewer than 16 can be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LEAST_CHARACTERS = 16
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")
# Names become labels of metrics. A token is longer, so that nobody takes one for a name by mistake.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")

# A file whose last line has no end is read again after this time, until it stays the same, at most so often.
_WRITING_S = 0.2
_MOST_READS = 25


class Scope(IntEnum):
    """What a caller may do; each scope includes those before it."""

    NONE = 0
    """Ask for health."""
    INFO = 1
    """Ask what the server is: GetServerInfo, reflection, the descriptions of the Open Inference Protocol."""
    COMPUTE = 2
    """Compute gradients."""
    ADMIN = 3
    """See other callers: channelz."""


@dataclass(frozen=True)
class Grant:
    """Rights of one token, and the name under which its use appears in logs and metrics.

    Attributes:
        name: Name; "" for none. Several tokens may have one name, and count as one client then.
        scope: What the token allows.
        most_requests: Most requests under way.
        most_bytes: Most operand bytes in flight.
    """

    name: str = ""
    scope: Scope = Scope.ADMIN
    most_requests: float = math.inf
    most_bytes: float = math.inf


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file, stored as SHA-256 digests, with their rights.

    A plain hash is enough because a token is long and random, unlike a password.
    """

    grants: Mapping[bytes, Grant] = field(repr=False)

    def grant_of(self, token: str) -> Grant | None:
        """Returns the rights of `token` if it is accepted, else None; takes the same time for any token."""
        digest = digest_of(token)
        found = None
        for known, grant in self.grants.items():
            if hmac.compare_digest(known, digest):
                found = grant
        return found


def digest_of(token: str) -> bytes:
    """Returns the SHA-256 digest of a token, which identifies it."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: str, *, pause: Callable[[float], object] = time.sleep) -> Tokens:
    """Reads a file with one token per line, each followed by its rights.

    A line has the token, or "sha256:" and its digest in hex, and then any of name=, scope=, requests= and bytes=.
    "#" starts a comment.

    Args:
        path: The file.
        pause: Waits for some seconds, while somebody may still write the last line.

    Raises:
        CredentialsError: The file is unreadable, or a line is wrong. The message never quotes a line, because it may
            hold a secret.
    """
    lines = _settled_text(path, pause).splitlines()
    grants: dict[bytes, Grant] = {}
    named: dict[str, Grant] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"--token-file {path}, line {number}"
        digest, grant = _digest(words[0], where=where), _grant(words[1:], where=where)
        if grants.get(digest, grant) != grant:
            raise CredentialsError(
                f"{where} repeats a token of an earlier line with different rights; list each token once"
            )
        if grant.name and named.setdefault(grant.name, grant) != grant:
            raise CredentialsError(
                f"{where} gives the name {grant.name} different rights from an earlier line; tokens of one name are "
                "one client and have the same rights"
            )
        grants[digest] = grant
    return Tokens(grants)


def _settled_text(path: str, pause: Callable[[float], object]) -> str:
    """Returns the text of a file that nobody writes: a line that is not whole may lack the words that bound it."""
    text = _text(path)
    for _ in range(_MOST_READS):
        if text.endswith("\n") or not os.path.isfile(path):  # a pipe has no more
            return text
        pause(_WRITING_S)
        former, text = text, _text(path)
        if text == former:
            return text
    raise CredentialsError(f"--token-file {path} is still being written; end its last line")


def _text(path: str) -> str:
    try:
        return read_bounded(path, f"--token-file {path}").decode()
    except UnicodeDecodeError:  # its text would reveal the content of the file
        raise CredentialsError(f"--token-file {path} is not a text file; it must have one token per line") from None


def _digest(text: str, *, where: str) -> bytes:
    if found := _DIGEST.fullmatch(text):
        return bytes.fromhex(found[1])
    if not _TOKEN.fullmatch(text) or len(text) < _LEAST_CHARACTERS:
        raise CredentialsError(
            f"{where} is not a token: at least {_LEAST_CHARACTERS} letters, digits or -._~+/ without spaces, such as "
            "`openssl rand -hex 32` prints, or 'sha256:' and 64 hex digits"
        )
    return digest_of(text)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError
    return int(text)


def _size(text: str) -> int:
    size: int = TypeAdapter(Size).validate_python(text)
    if size < 1:
        raise ValueError
    return size


# Word of a line -> field of the grant, its reader, and what the error says is allowed.
_WORDS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "name": ("name", _name, "at most 31 letters, digits or -._"),
    "scope": ("scope", lambda text: Scope[text.upper()], "info, compute or admin"),
    "requests": ("most_requests", _count, "a number of requests, at least 1"),
    "bytes": ("most_bytes", _size, "a size such as 256MiB"),
}


def _grant(words: list[str], *, where: str) -> Grant:
    fields: dict[str, Any] = {}
    for text in words:
        word, _, value = text.partition("=")
        if word not in _WORDS or _WORDS[word][0] in fields:
            raise CredentialsError(
                f"{where} must be a token followed by its rights; after the token, each of these may appear once: "
                + ", ".join(f"{known}=" for known in _WORDS)
            )
        name, read, allowed = _WORDS[word]
        try:
            fields[name] = read(value)
        except (KeyError, ValueError, ValidationError):  # its text would quote the line
            raise CredentialsError(f"{where}: {word}= must be {allowed}") from None
    if fields.get("scope") is Scope.NONE:
        raise CredentialsError(f"{where}: scope= must be {_WORDS['scope'][2]}")
    return Grant(**fields)
