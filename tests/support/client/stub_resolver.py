"""A name server for one test: it answers from a file, which may change meanwhile.

  python -m support.client.stub_resolver 127.0.0.1 TABLE.json

The file maps names to IPv4 addresses. A name that it lacks does not exist. The first line of stdout says that it
listens.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Names"]

_PORT = 53
# RFC 1035: the type of an address, the class of the Internet, a response that is an answer of the authority, its code
# for a name that does not exist, and a pointer to the name in the question.
_A, _IN, _RESPONSE, _NO_SUCH_NAME, _SAME_NAME = 1, 1, 0x8400, 3, 0xC00C
_HEADER = struct.Struct("!HHHHHH")


class Names:
    """The table of a name server.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: dict[str, Sequence[str]] = {}
        self.update({})

    def update(self, names: Mapping[str, Sequence[str]]) -> None:
        """Gives names other addresses, at once."""
        self._table.update(names)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._table))
        new.replace(self.path)


def answer(query: bytes, table: Mapping[str, Sequence[str]]) -> bytes:
    """Returns the response to `query`, which holds one question."""
    id = _HEADER.unpack_from(query)[0]
    labels, place = [], _HEADER.size
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode())
        place += 1 + length
    question = query[_HEADER.size : place + 5]
    (kind,) = struct.unpack_from("!H", query, place + 1)
    addresses = table.get(".".join(labels).lower())
    found = (addresses or ()) if kind == _A else ()
    flags = _RESPONSE | (_NO_SUCH_NAME if addresses is None else 0)
    records = [struct.pack("!HHHIH4s", _SAME_NAME, _A, _IN, 0, 4, socket.inet_aton(address)) for address in found]
    return b"".join((_HEADER.pack(id, flags, 1, len(records), 0, 0), question, *records))


def main(ip: str, path: str) -> None:
    """Answers queries to `ip` until it is killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((ip, _PORT))
        print("listening", flush=True)
        while True:
            query, asker = listening.recvfrom(512)
            listening.sendto(answer(query, json.loads(Path(path).read_text())), asker)


if __name__ == "__main__":
    main(*sys.argv[1:])
