"""Edges of the numerical contract: overflow, NaN and subnormals on one device."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["Edges", "OverflowMode"]


class OverflowMode(Enum):
    """The result of an operation whose value its type cannot hold."""

    UNKNOWN = "unknown"
    INF_NAN = "inf_nan"
    """Infinity or NaN, as IEEE 754 defines."""
    SATURATION = "saturation"
    """The largest value with its sign, or 0 for NaN."""


class Edges(NamedTuple):
    """The edges of the contract (docs/numerics.md) that hold in every dtype of a backend.

    A missing edge does not keep a server from being ready. Chips that can only saturate differ here, and sound training
    meets none of these values.
    """

    infinities: bool
    nans: bool
    overflow: bool
    subnormals: bool
