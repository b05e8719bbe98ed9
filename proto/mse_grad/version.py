"""Version of the product; in code, because a vendored or frozen copy has no package metadata."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
