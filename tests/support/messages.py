"""Variants of plain messages."""

from __future__ import annotations

import copy
from typing import TypeVar

from mse_grad.record import Record

__all__ = ["changed"]

T = TypeVar("T", bound=Record)


def changed(message: T, **fields: object) -> T:
    """Returns a copy of `message` with other fields."""
    other = copy.copy(message)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
