"""Arrays of JAX, pandas and PyArrow themselves: each comes back as its kind, with the bits of the formula."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType
from mse_grad_client import InvalidArgument, MseGradClient
from support.client.scripted_server import ScriptedServer
from support.tools import require_module
from support.values import expected, operands

pytestmark = pytest.mark.slow  # slow, like all tests that need more than `make test` installs


def library(name: str) -> Any:
    require_module(name)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client; typed Any, because its types know only NumPy."""
    with ScriptedServer() as server, MseGradClient(server.address) as connected:
        yield connected


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_jax(client: Any, dtype: DType) -> None:
    jax = library("jax")
    given = operands((3, 4), dtype)
    arrays = [jax.numpy.asarray(each) for each in given]
    for y in (client.compute(*arrays), *client.compute_many([tuple(arrays)] * 2)):
        assert isinstance(y, jax.Array)
        assert y.devices() == arrays[0].devices()
        np.testing.assert_array_equal(np.asarray(y), expected(*given), strict=True)
    with pytest.raises(InvalidArgument, match=r"predict is a .*Tracer, which NumPy cannot convert to an array"):
        jax.jit(lambda x: client.compute(x, *arrays[1:]))(arrays[0])


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, FLOAT64], ids=lambda dtype: dtype.name)
def test_pyarrow(client: Any, dtype: DType) -> None:
    pyarrow = library("pyarrow")
    given = operands((9,), dtype)
    arrays = [pyarrow.array(each) for each in given]
    y = client.compute(*arrays)
    assert isinstance(y, pyarrow.Array)
    assert y.type == arrays[0].type
    np.testing.assert_array_equal(np.asarray(y), expected(*given), strict=True)
    y = client.compute(*(pyarrow.chunked_array([each[:4], each[4:]]) for each in arrays))
    assert isinstance(y, pyarrow.ChunkedArray)
    np.testing.assert_array_equal(np.asarray(y), expected(*given), strict=True)


def test_pyarrow_with_nulls_and_its_tables_are_refused(client: Any) -> None:
    pyarrow = library("pyarrow")
    array = pyarrow.array([1.0, None, 3.0])
    for given, words in (
        (array, "1 missing values"),
        (pyarrow.chunked_array([array]), "1 missing values"),
        (pyarrow.table({"x": array}), "is a Table; pass one of its columns"),
        (pyarrow.record_batch({"x": array}), "is a RecordBatch; pass one of its columns"),
    ):
        with pytest.raises(InvalidArgument, match=words) as caught:
            client.compute(given, np.ones(3), 1.0)
        assert caught.value.reason is Reason.OPERAND_UNSUPPORTED


@pytest.mark.parametrize("dtype", ["float32", "float64", "Float32", "Float64", "float32[pyarrow]", "float64[pyarrow]"])
def test_a_series_of_pandas_keeps_its_index_name_and_dtype(client: Any, dtype: str) -> None:
    pandas = library("pandas")
    if "pyarrow" in dtype:
        library("pyarrow")
    given = operands((3,), FLOAT64 if "64" in dtype else FLOAT32)
    series = [pandas.Series(each, index=["a", "b", "c"], name="loss", dtype=dtype) for each in given]
    y = client.compute(*series)
    pandas.testing.assert_series_equal(
        y, pandas.Series(expected(*given), index=["a", "b", "c"], name="loss", dtype=dtype)
    )


def test_a_frame_of_pandas_keeps_its_axes(client: Any) -> None:
    pandas = library("pandas")
    given = operands((2, 3))

    def frame(values: Array) -> Any:
        return pandas.DataFrame(values, index=["a", "b"], columns=["x", "y", "z"])

    pandas.testing.assert_frame_equal(client.compute(*map(frame, given)), frame(expected(*given)))
    with pytest.raises(InvalidArgument, match=r"predict has dtype object; .*predict\.astype\('float32'\)"):
        client.compute(frame(given[0]).astype("Float32"), *given[1:])


def pandas_refusals(pandas: Any) -> dict[str, tuple[Callable[[], Any], str]]:
    return {
        "missing": (lambda: pandas.Series([1.0, None], dtype="Float64"), "label has 1 missing values"),
        "another index": (lambda: pandas.Series([1.0, 2.0], index=[1, 0]), r"label\.reindex_like\(predict\)"),
        "integers": (lambda: pandas.Series([1, 2]), "label has dtype int64"),
        "objects": (lambda: pandas.Series([1.0, "x"]), "label has dtype object"),
    }


@pytest.mark.parametrize("kind", ["missing", "another index", "integers", "objects"])
def test_pandas_that_would_change_is_refused(client: Any, kind: str) -> None:
    pandas = library("pandas")
    make, words = pandas_refusals(pandas)[kind]
    with pytest.raises(InvalidArgument, match=words):
        client.compute(pandas.Series([1.0, 2.0]), make(), 1.0)
    mixed = pandas.DataFrame({"x": np.ones(2, "f4"), "y": np.ones(2, "i4")})
    with pytest.raises(InvalidArgument, match="predict has columns of float32, int32"):
        client.compute(mixed, mixed, 1.0)


def test_a_category_comes_back_with_the_gradients_own_values(client: Any) -> None:
    pandas = library("pandas")
    y = client.compute(pandas.Series([1.0, 2.0], dtype="category"), np.zeros(2), 1.0, "sum")
    pandas.testing.assert_series_equal(y, pandas.Series([2.0, 4.0]))


def test_the_memory_of_each_library_is_read_in_place_and_the_gradient_is_not_copied(client: Any) -> None:
    jax, pandas, pyarrow = map(library, ("jax", "pandas", "pyarrow"))
    from mse_grad_client.kinds import restore_of
    from mse_grad_client.operand import operand_array

    array = np.ones((4, 4))
    column = array[0]
    assert np.shares_memory(operand_array(pandas.DataFrame(array, copy=False), field="predict"), array)
    assert np.shares_memory(operand_array(pyarrow.array(column), field="predict"), array)
    on_cpu = jax.numpy.ones(100)
    assert np.shares_memory(operand_array(on_cpu, field="predict"), np.asarray(on_cpu))
    for given in (pandas.Series(column), pandas.DataFrame(array), pyarrow.array(column)):
        restore = restore_of(given, 1.0, 1.0)
        assert restore is not None
        gradient = np.zeros(given.shape if hasattr(given, "shape") else len(given))
        assert np.shares_memory(np.asarray(restore(gradient)), gradient)
