"""Parser of C prototypes, which declares C functions to ctypes.

The prototype is the declaration: its text is that of the vendor's header, and nothing is typed twice.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Function", "Prototype", "find_function", "library_of", "parse_prototypes"]

Function: TypeAlias = Callable[..., Any]

_PROTOTYPE = re.compile(r"(?P<result>[\w ]+?[ *]+)(?P<name>\w+)\((?P<arguments>[^)]*)\)")
_SCALARS = {
    "void": None,
    "int": ctypes.c_int32,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
}


@dataclass(frozen=True)
class Prototype:
    """A C function: its name, and its types as ctypes has them."""

    name: str
    result: Any
    arguments: tuple[Any, ...]


def parse_prototypes(text: str) -> dict[str, Prototype]:
    """Returns the prototypes in `text` by name; raises ValueError for an unknown type."""
    found = {}
    for match in _PROTOTYPE.finditer(text):
        name, arguments = match["name"], match["arguments"].strip()
        types = [] if arguments in ("", "void") else [_ctype(argument) for argument in arguments.split(",")]
        found[name] = Prototype(name, _ctype(match["result"]), tuple(types))
    return found


def find_function(library: ctypes.CDLL, prototype: Prototype, *older_names: str) -> Function:
    """Returns the function of `library` by its name or an older one; raises AttributeError if there is none."""
    for name in (prototype.name, *older_names):
        found = getattr(library, name, None)
        if found is not None:
            found.restype = prototype.result
            found.argtypes = prototype.arguments
            return found  # type: ignore[no-any-return]
    raise AttributeError(f"{library._name} has no function {prototype.name}")


def library_of(function: Function) -> Path:
    """Returns the file of the library that has `function`: the one that was searched, or one that it depends on.

    Raises:
        LookupError: The loader knows no such library.
    """
    found = _DlInfo()
    address = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]
    # Source: dladdr(3). CDLL(None) stands for the process, whose symbols include those of libc.
    if not ctypes.CDLL(None).dladdr(address, ctypes.byref(found)) or not found.file:
        raise LookupError(f"no library has {function}")
    return Path(found.file.decode())


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _ctype(declaration: str) -> Any:
    stars = declaration.count("*")
    words = [word for word in declaration.replace("*", " ").split() if word != "const"]
    if stars == 1 and words[0] == "char":
        return ctypes.c_char_p
    if stars:
        return ctypes.c_void_p
    if words[0] not in _SCALARS:
        raise ValueError(f"the C type of {declaration.strip()!r} is not known")
    return _SCALARS[words[0]]
