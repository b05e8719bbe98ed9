"""Accepted bearer tokens, read from a file."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from mse_grad_server.process.exits import CredentialsError

__all__ = ["Tokens", "digest_of", "read_tokens"]

# Form of a token: b64token of RFC 6750. 22 random characters have 128 bits; fewer than 16 can be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LEAST_CHARACTERS = 16
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file, stored as SHA-256 digests.

    A plain hash is enough because a token is long and random, unlike a password.
    """

    digests: frozenset[bytes] = field(repr=False)

    def digest_of(self, token: str) -> bytes | None:
        """Returns the digest of `token` if it is accepted, else None; takes the same time for any token."""
        digest = digest_of(token)
        found = None
        for known in self.digests:
            if hmac.compare_digest(known, digest):
                found = known
        return found


def digest_of(token: str) -> bytes:
    """Returns the SHA-256 digest of a token, which identifies it."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: str) -> Tokens:
    """Reads a file with one token per line: the token, or "sha256:" and its digest in hex. "#" starts a comment.

    Raises:
        CredentialsError: The file is unreadable, or a line is not a token.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as cause:
        raise CredentialsError(f"--token-file {path}: {cause.strerror}") from cause
    except UnicodeDecodeError:  # its text would reveal the content of the file
        raise CredentialsError(f"--token-file {path} is not a text file; it must have one token per line") from None
    digests = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            digests.add(_digest(text, where=f"--token-file {path}, line {number}"))
    return Tokens(frozenset(digests))


def _digest(text: str, *, where: str) -> bytes:
    if found := _DIGEST.fullmatch(text):
        return bytes.fromhex(found[1])
    if not _TOKEN.fullmatch(text) or len(text) < _LEAST_CHARACTERS:
        raise CredentialsError(
            f"{where} is not a token: at least {_LEAST_CHARACTERS} letters, digits or -._~+/ without spaces, such as "
            "`openssl rand -hex 32` prints, or 'sha256:' and 64 hex digits"
        )
    return digest_of(text)
