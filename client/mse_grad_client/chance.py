"""Random numbers of the client, from the system.

Importing `random` or `secrets` takes 2 ms, as they bring the hash functions along; the client draws few numbers.
"""

from __future__ import annotations

import os

__all__ = ["token", "two_below", "uniform"]

_BYTES = 7
_MOST = 1 << 8 * _BYTES


def token() -> str:
    """Returns 8 random hexadecimal digits."""
    return os.urandom(4).hex()


def uniform(low: float, high: float) -> float:
    """Returns a random number from `low` to `high`."""
    return low + (high - low) * _below(_MOST) / _MOST


def two_below(count: int) -> tuple[int, int]:
    """Returns two different random numbers from 0 to below `count`, which is at least 2."""
    first, second = _below(count), _below(count - 1)
    return first, second + (second >= first)


def _below(bound: int) -> int:
    """Returns a random number below `bound`; each is equally likely, but for a part in 2**56 / `bound`."""
    return int.from_bytes(os.urandom(_BYTES)) * bound >> 8 * _BYTES
