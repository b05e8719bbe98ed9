"""The bearer tokens that callers may show, read from a file."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field

from mse_grad_server.exits import CredentialsError

__all__ = ["Tokens", "digest_of", "read_tokens"]

# RFC 6750, b64token. Of random characters 22 hold 128 bits; what is shorter than 16 can be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_LEAST_CHARACTERS = 16
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a file, as their SHA-256: the tokens themselves are not kept.

    A plain hash is enough, since a token is random and long, unlike a password.
    """

    digests: frozenset[bytes] = field(repr=False)

    def digest_of(self, token: str) -> bytes | None:
        """Returns the SHA-256 of a token that is one of these, else None; the time it takes tells nothing of them."""
        digest = digest_of(token)
        found = None
        for known in self.digests:
            if hmac.compare_digest(known, digest):
                found = known
        return found


def digest_of(token: str) -> bytes:
    """Returns the SHA-256 of a token, by which it is known."""
    return hashlib.sha256(token.encode()).digest()


def read_tokens(path: str) -> Tokens:
    """Returns the tokens of a file: one a line, or "sha256:" and the hex digits of its SHA-256; "#" begins a comment.

    Raises:
        CredentialsError: The file cannot be read, or a line is no token.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError as cause:
        raise CredentialsError(f"--token-file {path}: {cause.strerror}") from cause
    except UnicodeDecodeError:  # whose text would show what the file holds
        raise CredentialsError(f"--token-file {path} is no text; it has one token a line") from None
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
            f"{where} is no token: at least {_LEAST_CHARACTERS} letters, digits or -._~+/ without spaces, such as "
            "`openssl rand -hex 32` prints, or 'sha256:' and 64 hex digits"
        )
    return digest_of(text)
