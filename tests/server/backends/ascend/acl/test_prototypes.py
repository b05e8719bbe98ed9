from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest

from mse_grad_server.backends.ascend.acl import declarations, operator
from mse_grad_server.backends.ascend.acl.prototypes import Prototype, find_function, library_of, parse_prototypes
from mse_grad_server.backends.ascend.acl.runtime import Acl
from mse_grad_server.backends.edges import OverflowMode
from support.npu.runtime import AscendRuntime
from support.npu.simulator import ROOT
from support.tools import require_program

TEXTS = (
    declarations.ASCENDCL_PROTOTYPES,
    declarations.OPTIONAL_PROTOTYPES,
    declarations.NNOPBASE_PROTOTYPES,
    operator.PROTOTYPES,
)
# tests/simulator/abi checks these headers against the published ones.
# Pointers count as -1 and void as 0; all other types must agree in size.
SHAPES = """
#include <array>
#include <type_traits>
#include "acl/acl.h"
#include "aclnn/acl_meta.h"
#include "aclnn_mse_loss_grad.h"
#include "aclnn_mse_loss_grad_part.h"
template <typename T> constexpr int Kind() {
    if constexpr (std::is_void_v<T>) { return 0; }
    else if constexpr (std::is_pointer_v<T>) { return -1; }
    else { return sizeof(T); }
}
template <typename R, typename... Args> constexpr auto Shape(R (*)(Args...)) {
    return std::array<int, 1 + sizeof...(Args)>{Kind<R>(), Kind<Args>()...};
}
template <size_t M, size_t N> constexpr bool Same(std::array<int, M> a, std::array<int, N> b) {
    for (size_t i = 0; i < (M < N ? M : N); ++i) { if (a[i] != b[i]) { return false; } }
    return M == N;
}
"""


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


def test_an_older_name_is_found_if_the_newer_is_missing() -> None:
    prototype = parse_prototypes("int no_such_function_of_libc(const char *text)")["no_such_function_of_libc"]
    assert find_function(ctypes.CDLL(None), prototype, "atoi")(b"42") == 42


def test_a_missing_function_is_named() -> None:
    prototype = parse_prototypes("int no_such_function_of_libc(void)")["no_such_function_of_libc"]
    with pytest.raises(AttributeError, match="no_such_function_of_libc"):
        find_function(ctypes.CDLL(None), prototype)


def test_the_library_of_a_function_is_the_one_that_defines_it_not_the_one_searched() -> None:
    needs_libc = ctypes.CDLL("libm.so.6")
    assert "libc.so" in library_of(needs_libc.atoi).name
    assert "libm.so" in library_of(needs_libc.cos).name


def test_a_function_of_no_library_raises_lookup_error() -> None:
    made = ctypes.CFUNCTYPE(None)(lambda: None)
    with pytest.raises(LookupError):
        library_of(made)


@pytest.mark.parametrize("text", TEXTS)
def test_every_line_of_the_declarations_is_one_prototype(text: str) -> None:
    assert len(parse_prototypes(text)) == len(text.strip().splitlines())


def kind(ctype: Any) -> int:
    return 0 if ctype is None else -1 if ctype in (ctypes.c_char_p, ctypes.c_void_p) else ctypes.sizeof(ctype)


def compile_shapes(runtime: AscendRuntime, prototypes: Iterable[Prototype]) -> subprocess.CompletedProcess[str]:
    program = SHAPES
    for prototype in prototypes:
        kinds = [kind(prototype.result), *(kind(argument) for argument in prototype.arguments)]
        shape = f"std::array<int, {len(kinds)}>{{{', '.join(map(str, kinds))}}}"
        program += f'static_assert(Same(Shape(&{prototype.name}), {shape}), "{prototype.name}");\n'
    includes = [f"-I{ROOT / 'tests' / 'simulator' / 'include'}", f"-I{runtime.folder / 'generated'}"]
    command = [require_program("g++"), "-std=c++17", "-fsyntax-only", *includes, "-xc++", "-"]
    return subprocess.run(command, input=program, capture_output=True, text=True, check=False)


def test_every_declaration_has_the_shape_of_the_header(built_runtime: AscendRuntime) -> None:
    found = [prototype for text in TEXTS for prototype in parse_prototypes(text).values()]
    compiled = compile_shapes(built_runtime, found)
    assert compiled.returncode == 0, compiled.stderr


@pytest.mark.parametrize(
    "wrong", ["int aclrtMalloc(void **devPtr, uint32_t size, int policy)", "int aclrtFree(void *devPtr, int policy)"]
)
def test_a_declaration_of_another_shape_is_noticed(built_runtime: AscendRuntime, wrong: str) -> None:
    compiled = compile_shapes(built_runtime, parse_prototypes(wrong).values())
    assert "static assertion failed" in compiled.stderr


def test_a_function_that_only_newer_toolkits_have_may_be_missing(runtime: AscendRuntime) -> None:
    class Older:
        """The runtime without the functions of newer toolkits."""

        _name = "libacl_rt.so"

        def __init__(self) -> None:
            self._library = ctypes.CDLL(str(runtime.folder / "libacl_rt.so"))

        def __getattr__(self, name: str) -> Any:
            if name == "aclrtGetDeviceSatMode":
                raise AttributeError(name)
            return getattr(self._library, name)

    nnopbase = ctypes.CDLL(str(runtime.folder / "libnnopbase.so"))
    assert Acl(Older(), nnopbase).overflow_mode() is OverflowMode.UNKNOWN  # type: ignore[arg-type]
