"""`MseGradClient.compute` against a server that answers by the formula."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import DTYPES, FLOAT32, DType
from mse_grad_client import ClientOptions, InvalidArgument, MseGradClient
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

SMALL_CHUNKS = ClientOptions(chunk_bytes=64)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module", params=[ClientOptions(), SMALL_CHUNKS], ids=["chunks of 512 KiB", "chunks of 64 bytes"])
def client(server: ScriptedServer, request: pytest.FixtureRequest) -> Iterator[MseGradClient]:
    with MseGradClient(server.address, options=request.param) as open_client:
        yield open_client


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (7,), (3, 33), (2, 1, 1, 2, 1, 3, 1, 5)])
def test_the_gradient_equals_the_formula(
    client: MseGradClient, shape: tuple[int, ...], reduction: str, dtype: DType
) -> None:
    predict, label, dout = operands(shape, dtype)
    y = client.compute(predict, label, dout, reduction)
    assert y.shape == shape
    assert y.dtype == dtype.numpy
    assert y.flags.writeable
    np.testing.assert_array_equal(y, expected(predict, label, dout, reduction), strict=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_a_scalar_dout_equals_a_full_one(client: MseGradClient, dtype: DType) -> None:
    predict, label, _ = operands((5, 31), dtype)
    full = client.compute(predict, label, np.full((5, 31), 0.3, dtype.numpy))
    for scalar in (0.3, np.asarray(0.3, dtype.numpy), np.full(1, 0.3, dtype.numpy)):
        np.testing.assert_array_equal(client.compute(predict, label, scalar), full, strict=True)


def test_a_part_has_the_coefficient_of_the_whole(client: MseGradClient) -> None:
    predict, label, dout = operands((100,))
    whole = client.compute(predict, label, dout)
    parts = [client.compute(predict[a:b], label[a:b], dout[a:b], numel=100) for a, b in ((0, 33), (33, 100))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: np.asfortranarray(array),
        lambda array: array[::-1],
        lambda array: array[:, ::2],
        lambda array: array.T,
        lambda array: np.broadcast_to(array[0], array.shape),
        lambda array: array.astype(array.dtype.newbyteorder(">")),
    ],
    ids=["Fortran", "reversed", "strided", "transposed", "broadcast", "big endian"],
)
def test_any_layout_of_the_operands_gives_the_same_gradient(client: MseGradClient, view) -> None:  # type: ignore[no-untyped-def]
    laid_out = [view(array) for array in operands((12, 34))]
    y = client.compute(*laid_out)
    assert y.dtype == laid_out[0].dtype
    assert y.shape == laid_out[0].shape
    plain = [np.ascontiguousarray(array, dtype="<f4") for array in laid_out]
    np.testing.assert_array_equal(y.astype("<f4"), expected(plain[0], plain[1], plain[2]))


@pytest.mark.parametrize("where", ["new", "strided", "big endian", "predict", "dout", "part of label"])
def test_out_receives_the_gradient(client: MseGradClient, where: str) -> None:
    predict, label, dout = operands((64,))
    wanted = expected(predict, label, dout)
    padded = np.concatenate([label[:0], label, label])
    dtype = ">f4" if where == "big endian" else "f4"
    if where == "big endian":
        predict, label, dout = (array.astype(dtype) for array in (predict, label, dout))
    out = {
        "new": np.empty(64, "f4"),
        "strided": np.empty((64, 2), "f4")[:, 1],
        "big endian": np.empty(64, ">f4"),
        "predict": predict,
        "dout": dout,
        "part of label": padded[1:65],
    }[where]
    if where == "part of label":
        label = padded[:64]
    assert client.compute(predict, label, dout, out=out) is out
    np.testing.assert_array_equal(out, wanted)


def test_many_threads_share_one_stream() -> None:
    with ScriptedServer() as server, MseGradClient(server.address, options=SMALL_CHUNKS) as client:

        def check(seed: int) -> None:
            predict, label, dout = operands((seed * 3,), seed=seed)
            np.testing.assert_array_equal(client.compute(predict, label, dout), expected(predict, label, dout))

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(check, range(200)))
        assert server.streams == 1


def test_lists_are_float64_tensors(client: MseGradClient) -> None:
    y = client.compute([3.0, 1.0], [1.0, 1.0], 1.0, "sum")
    np.testing.assert_array_equal(y, np.array([4.0, 0.0]), strict=True)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"label": np.zeros((3, 2), "f4")}, Reason.SHAPE_MISMATCH, ["[2, 3]", "[3, 2]"]),
        ({"label": np.zeros((2, 1), "f4")}, Reason.SHAPE_MISMATCH, ["[2, 3]", "[2, 1]"]),
        ({"label": np.zeros((2, 3), "f2")}, Reason.DTYPE_MISMATCH, ["float32", "float16"]),
        ({"dout": np.zeros((2, 3), "f8")}, Reason.DTYPE_MISMATCH, ["float32", "float64"]),
        ({"dout": np.float64(1.0)}, Reason.DTYPE_MISMATCH, ["float32", "float64"]),
        ({"predict": np.zeros((2, 3), "i4")}, Reason.DTYPE_UNKNOWN, ["int32", "bfloat16"]),
        ({"predict": np.zeros((2, 3), "?")}, Reason.DTYPE_UNKNOWN, ["bool"]),
        ({"predict": np.zeros((2, 3), "c8")}, Reason.DTYPE_UNKNOWN, ["complex64"]),
        ({"predict": np.zeros((2, 3), "O")}, Reason.DTYPE_UNKNOWN, ["object"]),
        ({"dout": True}, Reason.DTYPE_UNKNOWN, ["dout", "bool"]),
        ({"dout": "one"}, Reason.DTYPE_UNKNOWN, ["dout"]),
        ({"dout": np.zeros((3,), "f4")}, Reason.DOUT_SHAPE_MISMATCH, ["[2, 3]", "[3]"]),
        ({"dout": np.zeros((1, 1), "f4")}, Reason.DOUT_SHAPE_MISMATCH, ["[2, 3]", "[1, 1]"]),
        ({"reduction": "avg"}, Reason.REDUCTION_UNKNOWN, ["'avg'", "'none'", "'mean'", "'sum'"]),
        ({"reduction": None}, Reason.REDUCTION_UNKNOWN, ["None"]),
        ({"numel": 5}, Reason.NUMEL_INVALID, ["5", "6"]),
        ({"numel": -1}, Reason.NUMEL_INVALID, ["-1"]),
        ({"numel": 12, "reduction": "sum"}, Reason.NUMEL_INVALID, ["'sum'"]),
        ({"numel": 100.5}, Reason.NUMEL_INVALID, ["100.5", "whole number"]),
        ({"numel": 128.0}, Reason.NUMEL_INVALID, ["128.0", "whole number"]),
        ({"numel": np.float64(128)}, Reason.NUMEL_INVALID, ["128.0", "whole number"]),
        ({"numel": "128"}, Reason.NUMEL_INVALID, ["'128'", "whole number"]),
        ({"numel": None}, Reason.NUMEL_INVALID, ["None", "whole number"]),
        ({"numel": 2**63}, Reason.NUMEL_INVALID, ["9223372036854775808", "2^63 - 1"]),
        ({"numel": 2**70}, Reason.NUMEL_INVALID, ["1180591620717411303424", "2^63 - 1"]),
        ({"numel": 10**5000}, Reason.NUMEL_INVALID, ["an integer of 16610 bits", "2^63 - 1"]),
        ({"numel": -(2**70)}, Reason.NUMEL_INVALID, ["-1180591620717411303424"]),
        ({"reduction": b"mean"}, Reason.REDUCTION_UNKNOWN, ["b'mean'"]),
        ({"reduction": ["mean"]}, Reason.REDUCTION_UNKNOWN, ["['mean']"]),
        ({"reduction": 2}, Reason.REDUCTION_UNKNOWN, ["2"]),
        ({"out": np.zeros((3, 2), "f4")}, Reason.SHAPE_MISMATCH, ["out", "[3, 2]"]),
        ({"out": np.zeros((2, 3), "f8")}, Reason.DTYPE_MISMATCH, ["out", "float64"]),
        ({"out": [0.0]}, Reason.OPERAND_UNSUPPORTED, ["out", "list"]),
    ],
)
def test_a_broken_rule_names_the_problem_and_the_allowed_values(
    client: MseGradClient, change: dict[str, object], reason: Reason, words: list[str]
) -> None:
    predict, label, dout = operands((2, 3))
    arguments: dict[str, object] = {"predict": predict, "label": label, "dout": dout, **change}
    with pytest.raises(InvalidArgument) as caught:
        client.compute(**arguments)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert caught.value.reason is reason
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    for word in words:
        assert word in caught.value.message
    np.testing.assert_array_equal(client.compute(predict, label, dout), expected(predict, label, dout))


def test_a_timeout_too_large_for_python_to_print_is_refused(client: MseGradClient) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s is an integer of 16610 bits; it must be positive"):
        client.compute(*operands((3,)), timeout_s=10**5000)


@pytest.mark.parametrize("numel", [np.int64(8), np.uint8(8), np.array(8)])
def test_any_whole_number_is_the_count_of_the_whole(client: MseGradClient, numel: Any) -> None:
    predict, label, dout = operands((4,))
    np.testing.assert_array_equal(
        client.compute(predict, label, dout, numel=numel), client.compute(predict, label, dout, numel=8)
    )


def test_rank_9_is_refused(client: MseGradClient) -> None:
    tensor = np.zeros((1,) * 9, FLOAT32.numpy)
    with pytest.raises(InvalidArgument) as caught:
        client.compute(tensor, tensor, tensor)
    assert caught.value.reason is Reason.RANK_TOO_HIGH


@pytest.mark.parametrize(
    "timeout_s", [0, -1.0, math.nan, math.inf, 1e13, "1", b"1", [1.0], 1j, np.ones(2), np.timedelta64(1, "s")]
)
def test_a_value_that_is_no_timeout_is_refused(client: MseGradClient, timeout_s: Any) -> None:
    words = re.escape(f"timeout_s is {timeout_s!r}; it must be positive and at most 1e9")
    for call in (
        lambda: client.compute(*operands((3,)), timeout_s=timeout_s),
        lambda: client.compute_unary(*operands((3,)), timeout_s=timeout_s),
        lambda: client.compute_many([], timeout_s=timeout_s),
        lambda: client.server_info(timeout_s=timeout_s),
        lambda: client.wait_ready(timeout_s),
    ):
        with pytest.raises(InvalidArgument, match=words):
            call()
