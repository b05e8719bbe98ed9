"""HTTP/1 of the metrics: requests from their heads, and responses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

__all__ = ["END_OF_HEAD", "asked", "response", "text"]

# The carriage return is optional, because hand-written probes often omit it: RFC 9112, 2.2.
END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
"""End of the head of a request."""


def asked(head: bytes) -> WSGIEnvironment | None:
    """Returns a request as a WSGI environment, or None if it is not HTTP/1."""
    end = END_OF_HEAD.search(head)
    if end is None:
        return None
    request, *lines = head[: end.start()].decode("latin-1").replace("\r\n", "\n").split("\n")
    words = request.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    path, _, query = words[1].partition("?")
    headers = [line.partition(":") for line in lines]
    return {
        "REQUEST_METHOD": words[0],
        "PATH_INFO": unquote(path, "latin-1"),
        "QUERY_STRING": query,
        **{f"HTTP_{name.strip().upper().replace('-', '_')}": value.strip() for name, _, value in headers},
    }


def text(status: str, words: str) -> bytes:
    """Returns a response of plain text."""
    return response(status, [("Content-Type", "text/plain; charset=utf-8")], words.encode())


def response(status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """Returns a response, after which the connection closes."""
    every = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    return "\r\n".join([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in every), "", ""]).encode() + body
