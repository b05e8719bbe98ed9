"""Tensors of an NPU as operands, on a fake of the parts of torch_npu that the SDK uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad.tensor import BFLOAT16, DTYPES, Array, DType
from mse_grad_client import InvalidArgument, MseGradClient
from support.client.awaited import AwaitedClient
from support.client.fake_torch_npu import FakeTensor, FakeTorch
from support.client.scripted_server import ScriptedServer
from support.values import expected, operands

TO_PINNED = ("npu", False, "cpu", True)
FROM_PINNED = ("cpu", True, "npu", False)


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    fake = FakeTorch()
    monkeypatch.setitem(sys.modules, "torch", fake)
    return fake


@pytest.fixture
def client() -> Iterator[Any]:
    """A client; typed Any, because its types do not know tensors."""
    with ScriptedServer() as server, MseGradClient(server.address) as connected:
        yield connected


def assert_bits(tensor: FakeTensor, wanted: Array) -> None:
    assert tensor.values.dtype == wanted.dtype
    assert tensor.values.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_the_gradient_comes_back_to_the_npu_through_pinned_memory(torch: FakeTorch, client: Any, dtype: DType) -> None:
    given = operands((3, 100), dtype)
    predict, label, dout = (torch.tensor(each, index=2) for each in given)
    y = client.compute(predict, label, dout)
    assert isinstance(y, FakeTensor)
    assert (y.device.type, y.device.index) == ("npu", 2)
    assert_bits(y, expected(*given))
    assert torch.copies == [TO_PINNED, TO_PINNED, TO_PINNED, FROM_PINNED]
    assert torch.queued == []


def test_out_is_filled_and_returned(torch: FakeTorch, client: Any) -> None:
    given = operands((100,), BFLOAT16)
    predict, label, dout = (torch.tensor(each) for each in given)
    assert client.compute(predict, label, dout, out=predict) is predict
    assert_bits(predict, expected(*given))


@pytest.mark.parametrize("device", ["npu", "cpu"])
def test_compute_many_refuses_tensors_and_names_the_method_that_accepts_them(
    torch: FakeTorch, client: Any, device: str
) -> None:
    arrays = operands((100,))
    first, error = client.compute_many([arrays, [torch.tensor(each, device) for each in arrays]], return_errors=True)
    np.testing.assert_array_equal(first, expected(*arrays))
    assert isinstance(error, InvalidArgument)
    assert "item 1 holds torch tensors; compute_many takes arrays, compute takes tensors" in str(error)


def test_the_asynchronous_client_refuses_tensors_and_says_what_to_do(torch: FakeTorch, client: Any) -> None:
    arrays = operands((100,))
    tensors = [torch.tensor(each, "cpu") for each in arrays]
    calls: list[tuple[Any, Any]] = [(tensors, None), ((tensors[0], *arrays[1:]), None), (arrays, tensors[0])]
    with AwaitedClient(client.address) as awaited:
        for given, out in calls:
            for compute in (awaited.compute, awaited.compute_unary):
                with pytest.raises(InvalidArgument, match=r"takes arrays; share a tensor's memory with numpy\(\)"):
                    compute(*given, out=out)


def test_dout_may_be_a_number_or_on_the_cpu(torch: FakeTorch, client: Any) -> None:
    predict, label, _ = operands((100,))
    tensors = torch.tensor(predict), torch.tensor(label)
    dout = np.asarray(0.5, np.float32)
    wanted = expected(predict, label, dout)
    assert_bits(client.compute(*tensors, 0.5), wanted)
    assert_bits(client.compute(*tensors, torch.tensor(dout, "cpu")), wanted)


def test_cpu_tensors_are_used_in_place(torch: FakeTorch, client: Any) -> None:
    given = operands((100,), BFLOAT16)
    y = client.compute(*(torch.tensor(each, "cpu") for each in given))
    assert y.device.type == "cpu"
    assert_bits(y, expected(*given))
    assert torch.copies == []


def test_arrays_stay_arrays_if_torch_is_imported(torch: FakeTorch, client: Any) -> None:
    given = operands((100,))
    y = client.compute(*given)
    assert isinstance(y, np.ndarray)
    assert y.tobytes() == expected(*given).tobytes()


def test_operands_on_two_devices_are_refused(torch: FakeTorch, client: Any) -> None:
    predict, label, dout = operands((10,))
    first, second = torch.tensor(predict, index=0), torch.tensor(label, index=1)
    with pytest.raises(InvalidArgument, match="label is on npu:1, predict on npu:0"):
        client.compute(first, second, 1.0)
    with pytest.raises(InvalidArgument, match="dout is on npu:1, predict on npu:0"):
        client.compute(first, first, torch.tensor(dout, index=1))
    with pytest.raises(InvalidArgument, match="out is on cpu, predict on npu:0"):
        client.compute(first, first, 1.0, out=torch.tensor(predict, "cpu"))


def test_arrays_among_tensors_are_refused(torch: FakeTorch, client: Any) -> None:
    predict, label, _ = operands((10,))
    with pytest.raises(InvalidArgument, match="label is a ndarray; with torch tensors it must be one as well"):
        client.compute(torch.tensor(predict), label, 1.0)
    with pytest.raises(InvalidArgument, match="predict is a ndarray"):
        client.compute(predict, torch.tensor(label), 1.0)


def test_another_device_layout_or_dtype_is_refused(torch: FakeTorch, client: Any) -> None:
    predict = operands((10,))[0]
    elsewhere = torch.tensor(predict, "cuda")
    with pytest.raises(InvalidArgument, match="predict is on cuda:0; it must be on the CPU or an NPU"):
        client.compute(elsewhere, elsewhere, 1.0)
    sparse = torch.tensor(predict)
    sparse.layout = "torch.sparse_coo"
    with pytest.raises(InvalidArgument, match=r"predict has layout torch\.sparse_coo"):
        client.compute(sparse, sparse, 1.0)
    whole = torch.tensor(np.arange(3))
    with pytest.raises(
        InvalidArgument, match=r"predict has dtype torch.int64; it must be one of torch.float32"
    ) as caught:
        client.compute(whole, whole, 1.0)
    assert caught.value.reason is Reason.DTYPE_UNKNOWN


def test_shapes_that_differ_are_refused_as_for_arrays(torch: FakeTorch, client: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.compute(torch.tensor(operands((2, 3))[0]), torch.tensor(operands((3, 2))[0]), 1.0)
    assert caught.value.reason is Reason.SHAPE_MISMATCH
