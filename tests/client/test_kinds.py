"""Arrays of other kinds: read by the protocols that they speak, and given back as what came in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, Array, DType
from mse_grad_client import InvalidArgument, MseGradClient
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

OPERANDS = ("predict", "label", "dout")
CPU, GPU = (1, 0), (2, 1)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client; typed Any, because the tests pass values that its types forbid."""
    with ScriptedServer() as server, MseGradClient(server.address) as connected:
        yield connected


class ByDLPack:
    """An array that speaks DLPack alone, with its elements on a device."""

    def __init__(self, array: Array, device: tuple[int, int] = CPU) -> None:
        self._array = array
        self._device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, *, dl_device: tuple[int, int] | None = None, **_: Any) -> Any:
        if (dl_device or self._device) != CPU:
            raise BufferError("the elements are on a GPU")
        return self._array.__dlpack__()


class ByInterface:
    """An array that speaks the array interface alone."""

    def __init__(self, array: Array, **more: Any) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, **more}


class ByMethod:
    """An array that speaks `__array__` alone."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._array


class Standard(ByMethod):
    """An array of the array API standard."""

    def __init__(self, array: Array, device: str = "here") -> None:
        super().__init__(array)
        self.device = device

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(asarray=Standard)

    def elements(self) -> Array:
        return self._array


@pytest.mark.parametrize("wrap", [ByDLPack, ByInterface, ByMethod])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_every_protocol_is_read_and_gives_a_numpy_array(client: Any, wrap: Any, dtype: str) -> None:
    (kind,) = (each for each in DTYPES if each.name == dtype)
    given = operands((3, 4), kind)
    wanted = expected(*given)
    y = client.compute(*map(wrap, given))
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, wanted, strict=True)
    for y in client.compute_many([tuple(map(wrap, given))] * 2):
        np.testing.assert_array_equal(y, wanted, strict=True)


@pytest.mark.parametrize("wrap", [ByDLPack, ByInterface, ByMethod])
def test_the_memory_of_the_caller_is_read_in_place(wrap: Any) -> None:
    from mse_grad_client.operand import operand_array

    array = np.ones(5, "f4")
    assert np.shares_memory(operand_array(wrap(array), field="predict"), array)


def test_an_array_interface_may_be_big_endian(client: Any) -> None:
    predict, label, dout = operands((5,))
    y = client.compute(ByInterface(predict.astype(">f4")), label, dout)
    assert y.dtype == np.dtype(">f4")
    np.testing.assert_array_equal(y, expected(predict, label, dout))


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy copies from devices from 2.1 on")
def test_elements_on_a_device_are_copied_to_the_host_by_dlpack(client: Any) -> None:
    given = operands((5,))
    y = client.compute(*(ByDLPack(each, GPU) for each in given))
    np.testing.assert_array_equal(y, expected(*given), strict=True)


def test_a_dtype_that_numpys_dlpack_lacks_is_refused_by_name(client: Any) -> None:
    class Unexportable(ByDLPack):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("bfloat16 cannot be exported")

    with pytest.raises(
        InvalidArgument, match="label is a Unexportable, which NumPy cannot convert to an array: bfloat16"
    ) as caught:
        client.compute(np.ones(3), Unexportable(np.ones(3)), 1.0)
    assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_an_array_of_the_standard_comes_back_as_one_on_its_device(client: Any, dtype: DType) -> None:
    given = operands((3, 4), dtype)
    wanted = expected(*given)
    predict = Standard(given[0], "there")
    results = [client.compute(predict, *given[1:]), *client.compute_many([(predict, *given[1:])] * 2)]
    results += client.compute_many(each for each in [(predict, *given[1:])])
    for y in results:
        assert isinstance(y, Standard)
        assert y.device == "there"
        np.testing.assert_array_equal(y.elements(), wanted, strict=True)


def test_the_kind_of_predict_decides(client: Any) -> None:
    given = operands((4,))
    assert type(client.compute(given[0], Standard(given[1]), Standard(given[2]))) is np.ndarray
    assert type(client.compute(Standard(given[0]), given[1], 1.0)) is Standard
    first, second = client.compute_many([given, (Standard(given[0]), *given[1:])])
    assert (type(first), type(second)) == (np.ndarray, Standard)


def test_out_decides_before_predict(client: Any) -> None:
    given = operands((4,))
    out = np.empty(4, "f4")
    assert client.compute(Standard(given[0]), *given[1:], out=out) is out
    np.testing.assert_array_equal(out, expected(*given))


class Missing(ByMethod):
    """An array of Arrow or pandas with missing values, of which NumPy makes NaN."""

    null_count = 2


class Extension(ByMethod):
    """A column of pandas with an extension dtype."""

    dtype = "Float64"

    def isna(self) -> Array:
        return np.isnan(self._array)


class Frame(ByMethod):
    """A table of pandas."""

    dtypes = (np.dtype("f4"), np.dtype("i4"))


class Table(ByMethod):
    """A table of Arrow or polars."""

    schema = columns = ()


NAN = np.array([1.0, np.nan, 3.0])
INCOMPLETE: dict[str, tuple[Any, str]] = {
    "nulls": (Missing(NAN), "has 2 missing values, and a gradient has none; fill them in"),
    "missing values of an extension dtype": (Extension(NAN), "has 1 missing values"),
    "columns of two dtypes": (Frame(NAN), r"has columns of float32, int32; .* as after \w+\.astype\('float32'\)"),
    "a table": (Table(NAN), "is a Table; pass one of its columns"),
    "a masked interface": (ByInterface(NAN, mask=ByInterface(NAN > 2)), "has a mask in its array interface"),
}


@pytest.mark.parametrize("kind", INCOMPLETE)
@pytest.mark.parametrize("field", OPERANDS)
def test_elements_that_numpy_would_change_in_silence_are_refused(client: Any, field: str, kind: str) -> None:
    given, words = INCOMPLETE[kind]
    arguments = {**dict.fromkeys(OPERANDS, np.ones(3)), field: given}
    with pytest.raises(InvalidArgument, match=f"{field} {words}") as caught:
        client.compute(**arguments)
    assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("kind", ["nulls", "missing values of an extension dtype", "a table"])
def test_they_are_refused_as_elements_of_a_list(client: Any, kind: str) -> None:
    given, words = INCOMPLETE[kind]
    for rows in ([given], [[given]], (given, given)):
        with pytest.raises(InvalidArgument, match=f"label {words}"):
            client.compute(np.ones(np.shape(rows)), rows, 1.0)


def test_nan_of_an_ordinary_dtype_is_a_number(client: Any) -> None:
    class Column(Extension):
        dtype = np.dtype("f8")  # type: ignore[assignment]

    y = client.compute(Column(NAN), np.zeros(3), 1.0, "sum")
    np.testing.assert_array_equal(y, 2 * NAN)


def test_numbers_and_lists_have_the_dtypes_that_numpy_gives_them(client: Any) -> None:
    y = client.compute([1.0, 2.0], (0.5, 0.5), 1.0, "sum")
    np.testing.assert_array_equal(y, np.array([1.0, 3.0]), strict=True)
    np.testing.assert_array_equal(client.compute(1.5, 0.5, 1.0), np.array(2.0), strict=True)
    np.testing.assert_array_equal(client.compute(np.float32(1.5), np.float32(0.5), 1), np.array(2, "f4"), strict=True)
    for whole, kind in (([1, 2], "int64"), (True, "bool"), (3 + 0j, "complex128")):
        with pytest.raises(InvalidArgument, match=f"predict has dtype {kind}; it must be one of") as caught:
            client.compute(whole, whole, 1.0)
        assert caught.value.reason is Reason.DTYPE_UNKNOWN
    with pytest.raises(InvalidArgument, match="label has float64; they must be equal"):
        client.compute(np.ones(2, "f4"), [1.0, 2.0], 1.0)


class CupyArray(ByDLPack):
    """CuPy's array, which NumPy may not convert implicitly."""

    def __init__(self, array: Array) -> None:
        super().__init__(array, GPU)
        self.device = nullcontext()

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def elements(self) -> Array:
        return self._array


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy copies from devices from 2.1 on")
def test_an_array_of_cupy_comes_back_as_one(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy: Any = ModuleType("cupy")
    cupy.ndarray, cupy.asarray = CupyArray, CupyArray
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    given = operands((5,))
    y = client.compute(*map(CupyArray, given))
    assert isinstance(y, CupyArray)
    np.testing.assert_array_equal(y.elements(), expected(*given), strict=True)


def test_an_array_of_a_gpu_that_cannot_be_copied_is_refused_in_its_own_words(client: Any) -> None:
    class Stuck(CupyArray):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("no copies")

    with pytest.raises(
        InvalidArgument, match=r"predict is a Stuck, which NumPy cannot convert to an array: Implicit .* `.get\(\)`"
    ):
        client.compute(Stuck(np.ones(2)), np.ones(2), 1.0)
