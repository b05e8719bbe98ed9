"""Tensors of PyTorch give the same bits as arrays; only CPU tensors, because there is no NPU here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, FLOAT32, Array, DType
from mse_grad_client import InvalidArgument, MseGradClient
from mse_grad_client.pytorch import array_of
from support.server.server_process import ServerProcess
from support.tools import require_module
from support.values import expected, operands

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

needs_torch = pytest.mark.slow  # slow, like all tests that need more than `make test` installs

WITHOUT_TENSORS = """
import sys
import numpy as np
from mse_grad_client import MseGradClient
with MseGradClient(sys.argv[1]) as client:
    client.compute(np.ones(3, np.float32), np.zeros(3, np.float32), 1.0)
assert "torch" not in sys.modules
"""


@pytest.fixture
def pytorch() -> None:
    require_module("torch")


@pytest.fixture
def any_client(client: MseGradClient) -> Any:
    """The client; typed Any, because its types do not know tensors."""
    return client


def tensor(values: Array) -> Any:
    if values.dtype == BFLOAT16.numpy:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


def assert_bits(y: Any, wanted: Array) -> None:
    assert isinstance(y, torch.Tensor)
    assert not y.requires_grad
    found = array_of(y)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.tobytes() == wanted.tobytes()


def test_a_caller_without_tensors_does_not_import_torch(client: MseGradClient) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORS, client.address], check=True, timeout=60)


@needs_torch
@pytest.mark.usefixtures("pytorch")
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 7), (100_000,)])
def test_a_tensor_comes_back_with_the_same_bits(
    any_client: Any, dtypes: tuple[DType, ...], shape: tuple[int, ...]
) -> None:
    for dtype in dtypes:
        given = operands(shape, dtype)
        for compute in (any_client.compute, any_client.compute_unary):
            assert_bits(compute(*(tensor(each) for each in given)), expected(*given))


@needs_torch
@pytest.mark.usefixtures("pytorch")
def test_strides_and_histories_do_not_matter(any_client: Any, dtypes: tuple[DType, ...]) -> None:
    for dtype in dtypes:
        predict, label, dout = operands((33, 17), dtype)
        given = tensor(predict).t().requires_grad_(), tensor(label).t(), tensor(dout).t()
        assert_bits(any_client.compute(*given), expected(predict.T, label.T, dout.T))


@needs_torch
@pytest.mark.usefixtures("pytorch")
def test_out_is_filled_and_returned(any_client: Any, dtypes: tuple[DType, ...]) -> None:
    for dtype in dtypes:
        given = operands((1000,), dtype)
        wanted = expected(*given)
        predict, label, dout = (tensor(each) for each in given)
        assert any_client.compute(predict, label, dout, out=dout) is dout
        assert_bits(dout, wanted)


@needs_torch
@pytest.mark.usefixtures("pytorch")
def test_dout_may_be_a_tensor_of_one_element_or_a_number(any_client: Any) -> None:
    predict, label, _ = operands((100,), BFLOAT16)
    wanted = expected(predict, label, np.asarray(0.375, BFLOAT16.numpy), "sum")
    for dout in (torch.tensor(0.375, dtype=torch.bfloat16), 0.375):
        assert_bits(any_client.compute(tensor(predict), tensor(label), dout, "sum"), wanted)


@needs_torch
@pytest.mark.usefixtures("pytorch")
def test_tensors_that_the_contract_does_not_allow_are_refused(any_client: Any) -> None:
    predict = tensor(operands((4, 4), FLOAT32)[0])
    for wrong, text in (
        (predict.int(), "predict has dtype torch.int32; it must be one of torch.float32"),
        (predict.to_sparse(), "predict has layout torch.sparse_coo; it must be dense"),
        (predict.to("meta"), "predict is on meta; it must be on the CPU or an NPU"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            any_client.compute(wrong, wrong, 1.0)
        assert text in caught.value.message
    with pytest.raises(InvalidArgument) as caught:
        any_client.compute(predict, predict[:2], 1.0)
    assert caught.value.reason is Reason.SHAPE_MISMATCH


@needs_torch
@pytest.mark.usefixtures("pytorch")
def test_verify_shows_pytorch_next_to_the_server(server: ServerProcess, dtypes: tuple[DType, ...]) -> None:
    command = [sys.executable, "-m", "mse_grad_cli.main", "verify", server.address, "--quick", "--against", "torch"]
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=100, check=True)
    found = {each["dtype"]: each for each in json.loads(ended.stdout)["against"]["torch"]}
    assert set(found) == {dtype.name for dtype in dtypes}
    assert (found["float32"]["equal_percent"], found["float32"]["distance_ulp"]) == (100, 0)
    assert found["bfloat16"]["own_ulp"] <= 1 < found["bfloat16"]["peer_ulp"]
