from __future__ import annotations

import ctypes

import pytest

from mse_grad_server.backends.ascend import acl, opapi
from mse_grad_server.backends.ascend.prototypes import find_function, library_of, parse_prototypes


def test_a_prototype_becomes_the_types_that_ctypes_converts() -> None:
    prototype = parse_prototypes(
        "int f(void **out, size_t n, const void *in, int32_t a, uint32_t b, int64_t c, uint64_t d, char *text, T *t)"
    )["f"]
    assert prototype.result is ctypes.c_int32
    assert prototype.arguments == (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64,
        ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p,
    )  # fmt: skip


def test_no_arguments_and_other_results_are_understood() -> None:
    found = parse_prototypes("const char *name(void)\nvoid *make(void)\nvoid forget()")
    assert (found["name"].result, found["name"].arguments) == (ctypes.c_char_p, ())
    assert found["make"].result is ctypes.c_void_p
    assert found["forget"].result is None


def test_an_unknown_type_is_an_error_and_not_an_int() -> None:
    with pytest.raises(ValueError, match="uint128_t"):
        parse_prototypes("int f(uint128_t n)")


def test_an_older_name_is_found_where_the_newer_is_missing() -> None:
    prototype = parse_prototypes("int no_such_function_of_libc(const char *text)")["no_such_function_of_libc"]
    assert find_function(ctypes.CDLL(None), prototype, "atoi")(b"42") == 42


def test_a_missing_function_is_named() -> None:
    prototype = parse_prototypes("int no_such_function_of_libc(void)")["no_such_function_of_libc"]
    with pytest.raises(AttributeError, match="no_such_function_of_libc"):
        find_function(ctypes.CDLL(None), prototype)


def test_the_library_of_a_function_is_the_one_that_has_it_and_not_the_one_that_was_asked() -> None:
    needs_libc = ctypes.CDLL("libm.so.6")
    assert "libc.so" in library_of(needs_libc.atoi).name
    assert "libm.so" in library_of(needs_libc.cos).name


def test_a_function_of_no_library_is_none() -> None:
    made = ctypes.CFUNCTYPE(None)(lambda: None)
    with pytest.raises(LookupError):
        library_of(made)


@pytest.mark.parametrize("text", [acl.ASCENDCL_PROTOTYPES, acl.NNOPBASE_PROTOTYPES, opapi.PROTOTYPES])
def test_every_line_of_the_declarations_is_one_prototype(text: str) -> None:
    assert len(parse_prototypes(text)) == len(text.strip().splitlines())
