"""Operands and outputs with more than their elements: handled correctly, or refused with a clear message."""

from __future__ import annotations

import pathlib
from collections import UserList, deque
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_client import InvalidArgument, MseGradClient
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

COUNT = 6
OPERANDS = ("predict", "label", "dout")


class Quantity(np.ndarray):
    """A unit beside the elements, as in astropy and unyt."""

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the SDK must not compute with it")


class OlderQuantity(np.ndarray):
    """The same as in python-quantities."""

    def __sub__(self, _: Any) -> Any:
        raise AssertionError("the SDK must not compute with it")


class Holder:
    """An object that offers its array to NumPy."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._array


class Named(np.ndarray):
    """A subclass with data besides its elements, but without arithmetic of its own."""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client; typed Any, because the tests pass values that its types forbid."""
    with ScriptedServer() as server, MseGradClient(server.address) as connected:
        yield connected


def masked(array: Array) -> Array:
    return np.ma.masked_array(array, mask=array > 0)


REFUSED: dict[str, tuple[Callable[[Array], Any], str]] = {
    "a masked array": (masked, r"is a masked array, and a gradient has no mask; fill it in, as in \w+\.filled\(0\)"),
    "a masked array that masks nothing": (np.ma.asarray, "is a masked array"),
    "a quantity": (
        lambda array: array.view(Quantity),
        r"is a Quantity, .* pass its elements, as in np\.asarray\(\w+\)",
    ),
    "an older quantity": (lambda array: array.view(OlderQuantity), "is a OlderQuantity"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("field", [*OPERANDS, "out"])
def test_an_operand_with_arithmetic_of_its_own_is_refused(client: Any, field: str, kind: str) -> None:
    wrap, words = REFUSED[kind]
    arguments = dict(zip(OPERANDS, operands((COUNT,)), strict=True))
    arguments[field] = wrap(arguments.get(field, np.ones(COUNT, "f4")))
    with pytest.raises(InvalidArgument, match=f"{field} {words}") as caught:
        client.compute(**arguments)
    assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_as_an_element_of_a_list(client: Any, kind: str) -> None:
    wrap, words = REFUSED[kind]
    row = wrap(np.ones(3))
    for rows in ([row, row], ([row], [row])):
        with pytest.raises(InvalidArgument, match=f"label {words}"):
            client.compute(np.ones(np.shape(rows)), rows, 1.0)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(
    "hold", [Holder, lambda row: deque([row]), lambda row: UserList([row]), lambda row: [deque([row])]]
)
def test_it_is_refused_inside_every_wrapper_that_numpy_unwraps(
    client: Any, hold: Callable[[Array], Any], kind: str
) -> None:
    wrap, words = REFUSED[kind]
    row = np.ones(3)
    with pytest.raises(InvalidArgument, match=f"label {words}"):
        client.compute(np.ones(np.shape(hold(row))), hold(wrap(row)), 1.0)
    ones = np.ones(np.shape(hold(row)))
    assert client.compute(ones, hold(row), 1.0).tobytes() == bytes(ones.nbytes)


def test_compute_many_refuses_such_an_item_alone(client: Any) -> None:
    good = operands((COUNT,))
    results = client.compute_many([good, (masked(good[0]), *good[1:]), good], return_errors=True)
    assert isinstance(results[1], InvalidArgument)
    assert results[1].reason is Reason.OPERAND_UNSUPPORTED
    assert "item 1: predict is a masked array" in results[1].message
    for y in results[::2]:
        np.testing.assert_array_equal(y, expected(*good))


def test_a_masked_number_is_refused_as_dout(client: Any) -> None:
    predict, label, _ = operands((COUNT,))
    with pytest.raises(InvalidArgument, match="dout is a masked array"):
        client.compute(predict, label, np.ma.masked)


@pytest.mark.parametrize(
    "wrap",
    [lambda array: array.view(np.matrix), lambda array: array.view(np.recarray), lambda array: array.view(Named)],
    ids=["matrix", "recarray", "a subclass without arithmetic of its own"],
)
def test_other_subclasses_are_their_elements(client: Any, wrap: Callable[[Array], Array]) -> None:
    given = operands((2, 3))
    y = client.compute(*map(wrap, given))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, expected(*given), strict=True)
    out = wrap(np.zeros((2, 3), "f4"))
    assert client.compute(*given, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), expected(*given), strict=True)
    (y,) = client.compute_many([tuple(map(wrap, given))])
    np.testing.assert_array_equal(y, expected(*given), strict=True)


def test_a_map_of_a_file_is_its_elements(client: Any, tmp_path: pathlib.Path) -> None:
    given = operands((COUNT,))
    maps = []
    for name, array in zip((*OPERANDS, "out"), (*given, np.zeros(COUNT, "f4")), strict=True):
        maps.append(np.memmap(tmp_path / name, "f4", "w+", shape=COUNT))
        maps[-1][:] = array
    assert client.compute(*maps[:3], out=maps[3]) is maps[3]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out", "f4"), expected(*given))
    read_only = np.memmap(tmp_path / "out", "f4", "r")
    with pytest.raises(InvalidArgument, match="read-only"):
        client.compute(*given, out=read_only)
    np.testing.assert_array_equal(client.compute(read_only, *given[1:]), expected(read_only, *given[1:]))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("swapped", [*OPERANDS, "all"])
def test_either_byte_order_gives_the_same_gradient(client: Any, swapped: str, dtype: DType) -> None:
    given = dict(zip(OPERANDS, operands((COUNT,), dtype), strict=True))
    wanted = expected(given["predict"], given["label"], given["dout"])
    for field in OPERANDS if swapped == "all" else [swapped]:
        given[field] = given[field].astype(dtype.numpy.newbyteorder(">"))
    for y in (client.compute(*given.values()), *client.compute_many([tuple(given.values())] * 2)):
        assert y.dtype == given["predict"].dtype
        np.testing.assert_array_equal(y.astype(dtype.numpy), wanted)


def test_compute_many_tells_scalar_douts_of_two_byte_orders_apart(client: Any) -> None:
    predict, label, _ = operands((COUNT,))
    swapped = np.array(1.5, ">f4")
    alike = np.frombuffer(swapped.tobytes(), "<f4").reshape(())
    items = [(predict, label, dout) for dout in (swapped, alike, swapped)]
    for item, y in zip(items, client.compute_many(items, "sum"), strict=True):
        np.testing.assert_array_equal(y, expected(predict, label, item[2].astype("<f4"), "sum"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros(3, [("x", "f4"), ("y", "f4")]), r"dtype \[\('x', .*; pass one field of it, as in predict\['x'\]"),
        (np.rec.array([(1.0, 2.0)], dtype=[("x", "f4"), ("y", "f4")]), "dtype .*; pass one field of it"),
        (np.zeros(3, object), r"dtype object; .*; convert its Python objects, as in predict\.astype\('float32'\)"),
        (np.zeros(3, ml_dtypes.float8_e5m2), "dtype float8_e5m2; it must be one of float32"),
        ({"x": 1.0}, "dtype object"),
        ("one", "dtype <U3"),
    ],
    ids=["structured", "recarray with fields", "object", "float8", "dictionary", "text"],
)
def test_a_dtype_without_gradients_names_the_remedy(client: Any, given: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"predict has {words}") as caught:
        client.compute(given, given, 1.0)
    assert caught.value.reason is Reason.DTYPE_UNKNOWN


class Unreadable:
    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError("call get() first")


@pytest.mark.parametrize("given", [[[1.0, 2.0], [3.0]], Unreadable()], ids=["ragged", "with words of its own"])
def test_an_object_that_numpy_cannot_convert_is_refused_by_name(client: Any, given: Any) -> None:
    for field in OPERANDS:
        arguments = {**dict.fromkeys(OPERANDS, np.ones(2)), field: given}
        with pytest.raises(
            InvalidArgument, match=f"{field} is a .*, which NumPy cannot convert to an array: "
        ) as caught:
            client.compute(**arguments)
        assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("dout", [10**400, -(10**400), 2**1024], ids=["10^400", "-10^400", "2^1024"])
def test_an_integer_past_every_float_is_refused(client: Any, dout: int, dtype: DType) -> None:
    predict, label, _ = operands((COUNT,), dtype)
    with pytest.raises(InvalidArgument, match=r"dout is an integer of .* bits; .* less than 2\^1024") as caught:
        client.compute(predict, label, dout)
    assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("dout", [1e6, 10**6])
def test_a_number_past_the_largest_of_the_dtype_is_infinity(client: Any, dout: float) -> None:
    y = client.compute(np.ones(2, "f2"), np.zeros(2, "f2"), dout)
    np.testing.assert_array_equal(y, np.full(2, np.inf, "f2"), strict=True)


def read_only() -> Array:
    array = np.zeros(COUNT, "f4")
    array.flags.writeable = False
    return array


def shared_elements() -> Array:
    return np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), (COUNT,), (0,))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (read_only, "out is read-only; it must be writable"),
        (shared_elements, "several elements of out share memory"),
    ],
    ids=["read-only", "of shared elements"],
)
def test_an_out_that_cannot_hold_the_gradient_has_a_reason_of_its_own(
    client: Any, make: Callable[[], Array], words: str
) -> None:
    out = make()
    with pytest.raises(InvalidArgument, match=words) as caught:
        client.compute(*operands((COUNT,)), out=out)
    assert caught.value.reason is Reason.OUT_NOT_WRITABLE
    np.testing.assert_array_equal(out, np.zeros(COUNT))


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)], ids=str)
def test_an_out_without_elements_is_accepted_with_any_strides(client: Any, shape: tuple[int, ...]) -> None:
    out = np.lib.stride_tricks.as_strided(np.zeros(1, "f4"), shape, (0,) * len(shape))
    empty = np.zeros(shape, "f4")
    assert client.compute(empty, empty, 1.0, out=out) is out


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Returns a writable view of zeros with these strides, in bytes."""
    return np.lib.stride_tricks.as_strided(np.zeros(100, "f4"), shape, strides)


@pytest.mark.parametrize(
    ("shape", "strides"), [((4, 3), (4, 4)), ((3, 4), (4, 8)), ((4,), (2,)), ((2, 2, 2), (4, 8, 8))]
)
def test_an_out_whose_elements_overlap_is_refused(
    client: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidArgument, match="several elements of out share memory") as caught:
        client.compute(*operands(shape), out=strided(shape, strides))
    assert caught.value.reason is Reason.OUT_NOT_WRITABLE


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((2, 3), (4, 8)), ((3, 2), (8, 12)), ((4,), (12,)), ((1, 4), (0, 8)), ((2, 1, 3), (20, 0, 4))],
)
def test_an_out_with_a_place_for_each_element_is_filled(
    client: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    given, out = operands(shape), strided(shape, strides)
    assert client.compute(*given, out=out) is out
    np.testing.assert_array_equal(out, expected(*given))
