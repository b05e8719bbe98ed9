"""Plain values with named fields, cheap to define."""

from __future__ import annotations

__all__ = ["Record"]


class Record:
    """Equality and representation by the fields, which a subclass names in `__slots__` and sets when it is made.

    A dataclass or a named tuple compiles methods of its own at every import: ten times the time of a plain class.
    """

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"
