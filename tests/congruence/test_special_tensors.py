"""Special tensors of PyTorch: handled as PyTorch's own `out=` handles them, or refused with a clear message."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mse_grad.reasons import Reason
from mse_grad_client import ClientOptions, InvalidArgument, MseGradClient, RetryOptions, Unavailable
from support.client.scripted_server import ScriptedServer
from support.tools import require_module
from support.values import expected, operands

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
pytestmark = pytest.mark.slow  # slow, like all tests that need more than `make test` installs

COUNT = 6


@pytest.fixture(autouse=True)
def pytorch() -> None:
    require_module("torch")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client; typed Any, because its types do not know tensors."""
    with ScriptedServer() as server, MseGradClient(server.address) as connected:
        yield connected


@pytest.fixture
def given() -> list[Any]:
    return [torch.from_numpy(each) for each in operands((COUNT,))]


def wanted(predict: Any, label: Any, dout: Any) -> Any:
    return torch.from_numpy(expected(*(each.resolve_neg().detach().numpy() for each in (predict, label, dout))))


def negative() -> Any:
    """A real tensor whose elements have the opposite sign of its memory."""
    turned = torch.randn(COUNT, dtype=torch.cfloat).conj().imag
    assert turned.is_neg()
    return turned


def test_autograd_learns_that_out_was_written_to(client: Any, given: list[Any]) -> None:
    x, w = torch.ones(COUNT, requires_grad=True), torch.ones(COUNT)
    loss = (x * w).sum()
    client.compute(*given, out=w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    "view",
    [lambda w: w, lambda w: w[:], lambda w: w.detach(), lambda w: w.view(1, COUNT).squeeze(0)],
    ids=["itself", "a slice", "detached", "another shape"],
)
def test_every_view_counts_as_many_writes_as_pytorchs_own_out(
    client: Any, given: list[Any], view: Callable[[Any], Any]
) -> None:
    w = torch.ones(COUNT)
    torch.add(*given[:2], out=view(w))
    assert w._version == 1
    client.compute(*given, out=view(w))
    assert w._version == 2
    assert torch.equal(w, wanted(*given))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_a_write_to_any_shape_counts(client: Any, shape: tuple[int, ...]) -> None:
    w = torch.ones(shape)
    client.compute(torch.ones(shape), torch.zeros(shape), 1.0, out=w)
    assert w._version == 1


def test_a_refused_call_counts_as_no_write(client: Any, given: list[Any]) -> None:
    w = torch.ones(COUNT)
    with pytest.raises(InvalidArgument):
        client.compute(*given, "average", out=w)
    assert w._version == 0


def test_a_call_that_fails_counts_as_a_write_of_the_elements_that_came(given: list[Any]) -> None:
    w: Any = torch.ones(COUNT)
    once = ClientOptions(retry=RetryOptions(max_attempts=1))
    with MseGradClient("127.0.0.1:1", options=once) as without_server, pytest.raises(Unavailable):
        without_server.compute(*given, out=w)
    assert w._version == 1


def test_a_leaf_that_requires_grad_is_written_to_only_without_grad(client: Any, given: list[Any]) -> None:
    leaf = torch.ones(COUNT, requires_grad=True)
    for out in (leaf, leaf * 2, torch.nn.Parameter(torch.ones(COUNT))):
        with pytest.raises(InvalidArgument, match=r"out requires grad, .*; compute under torch\.no_grad\(\)") as caught:
            client.compute(*given, out=out)
        assert caught.value.reason is Reason.OUT_NOT_WRITABLE
        with torch.no_grad():
            assert client.compute(*given, out=out) is out
        assert torch.equal(out, wanted(*given))


def test_an_operand_that_requires_grad_gives_a_detached_gradient(client: Any, given: list[Any]) -> None:
    y = client.compute(given[0].clone().requires_grad_(), torch.nn.Parameter(given[1]), given[2])
    assert not y.requires_grad
    assert torch.equal(y, wanted(*given))


def test_shared_elements_are_read_and_not_written(client: Any, given: list[Any]) -> None:
    row = torch.ones(1).expand(COUNT)
    assert torch.equal(client.compute(given[0], row, given[2]), wanted(given[0], row, given[2]))
    with pytest.raises(InvalidArgument, match=r"several elements of out share memory; pass out\.clone") as caught:
        client.compute(*given, out=row)
    assert caught.value.reason is Reason.OUT_NOT_WRITABLE


@pytest.mark.parametrize("position", range(3))
def test_a_negative_bit_turns_the_sign_of_an_operand(client: Any, given: list[Any], position: int) -> None:
    given[position] = negative()
    assert torch.equal(client.compute(*given), wanted(*given))


def test_a_negative_bit_turns_the_sign_of_out(client: Any, given: list[Any]) -> None:
    out = negative()
    before = out._version
    assert client.compute(*given, out=out) is out
    assert torch.equal(out, wanted(*given))
    assert out.is_neg()
    assert out._version > before


def test_a_tensor_of_zeros_without_memory_is_read_and_not_written(client: Any, given: list[Any]) -> None:
    zeros = torch._efficientzerotensor((COUNT,))
    assert torch.equal(client.compute(given[0], zeros, given[2]), wanted(given[0], torch.zeros(COUNT), given[2]))
    with pytest.raises(InvalidArgument, match="out is a tensor of zeros without memory"):
        client.compute(*given, out=zeros)


def test_an_inference_tensor_is_read_anywhere_and_written_to_in_its_mode(client: Any, given: list[Any]) -> None:
    with torch.inference_mode():
        born_there = torch.ones(COUNT)
        assert client.compute(*given, out=born_there) is born_there
        assert torch.equal(client.compute(*given), wanted(*given))
    assert torch.equal(client.compute(born_there, *given[1:]), wanted(born_there, *given[1:]))
    with pytest.raises(InvalidArgument, match=r"out is an inference tensor; compute under torch\.inference_mode\(\)"):
        client.compute(*given, out=born_there)


@pytest.mark.parametrize("default", ["meta", "cpu"])
def test_another_default_device_changes_nothing(client: Any, given: list[Any], default: str) -> None:
    with torch.device(default):
        y = client.compute(*given)
    assert y.device.type == "cpu"
    assert torch.equal(y, wanted(*given))


class Unit(torch.Tensor if torch else object):  # type: ignore[misc]
    """A subclass with arithmetic of its own."""

    @classmethod
    def __torch_function__(cls, *_: Any) -> Any:
        raise AssertionError("the SDK must not compute with it")


class Named(torch.Tensor if torch else object):  # type: ignore[misc]
    """A subclass with data besides its elements."""


def masked() -> Any:
    return torch.masked.masked_tensor(torch.ones(COUNT), torch.ones(COUNT, dtype=torch.bool))


def fake() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(COUNT)


SPECIAL: dict[str, tuple[Callable[[], Any], str]] = {
    "a subclass of its own arithmetic": (
        lambda: torch.ones(COUNT).as_subclass(Unit),
        "is a Unit, which has its own arithmetic",
    ),
    "a masked tensor": (masked, "is a MaskedTensor, which has its own arithmetic"),
    "a fake tensor": (fake, "is a FakeTensor, which has its own arithmetic"),
    "a parameter without a shape": (lambda: torch.nn.UninitializedParameter(), "is a UninitializedParameter"),
    "a nested tensor": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is a nested tensor"),
    "a jagged tensor": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "is a NestedTensor",
    ),
    "a sparse tensor": (lambda: torch.ones(COUNT).to_sparse(), r"has layout torch\.sparse_coo; .*call to_dense"),
    "a tensor of oneDNN": (lambda: torch.ones(COUNT).to_mkldnn(), r"has layout torch\._mkldnn; .*call to_dense"),
    "a tensor of no memory": (lambda: torch.ones(COUNT, device="meta"), "is on meta; it must be on the CPU or an NPU"),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch warns that some of these are prototypes
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("field", ["predict", "label", "dout", "out"])
def test_a_special_tensor_is_refused_by_name(client: Any, given: list[Any], field: str, kind: str) -> None:
    make, words = SPECIAL[kind]
    arguments = dict(zip(("predict", "label", "dout"), given, strict=True))
    arguments[field] = make()
    with pytest.raises(InvalidArgument, match=f"{field} {words}") as caught:
        client.compute(**arguments)
    assert caught.value.reason is Reason.OPERAND_UNSUPPORTED
    assert torch.equal(client.compute(*given), wanted(*given))


def test_a_subclass_without_arithmetic_of_its_own_is_accepted(client: Any, given: list[Any]) -> None:
    named = [each.as_subclass(Named) for each in given]
    assert torch.equal(client.compute(*named), wanted(*given))


def test_a_tensor_that_torch_func_wraps_is_refused(client: Any, given: list[Any]) -> None:
    predict, label, dout = given
    for transform in (torch.vmap, lambda function: torch.func.grad(lambda x: function(x).sum())):
        with pytest.raises(InvalidArgument, match=r"the memory of predict cannot be read, as under torch\.func"):
            transform(lambda x: client.compute(x, label, dout))(torch.stack([predict, predict]))


def test_a_tensor_that_torch_func_makes_functional_is_refused(client: Any, given: list[Any]) -> None:
    predict, *others = given
    with pytest.raises(InvalidArgument, match=r"predict cannot be read, as under torch\.func.functionalize"):
        torch.func.functionalize(lambda each: client.compute(each, *others))(predict)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_trace_which_would_leave_the_gradient_out_is_refused(client: Any, given: list[Any]) -> None:
    predict, *others = given
    with pytest.raises(InvalidArgument, match=r"torch\.jit\.trace records no gradients of a server"):
        torch.jit.trace(lambda each: client.compute(each, *others), predict)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_tensors_without_elements_are_accepted(client: Any, shape: tuple[int, ...]) -> None:
    nothing = torch.zeros(shape)
    assert client.compute(nothing, nothing, 1.0).shape == shape


def test_a_tensor_in_a_fake_mode_is_refused(client: Any, given: list[Any]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), pytest.raises(InvalidArgument, match="the memory of predict cannot be read"):
        client.compute(*given)


def test_a_tensor_as_dout_of_arrays_is_refused_by_name_if_it_cannot_be_read(any_client: Any) -> None:
    predict, label, _ = operands((COUNT,))
    for dout in (torch.ones(COUNT, requires_grad=True), torch.ones(COUNT, dtype=torch.bfloat16), negative()):
        with pytest.raises(InvalidArgument, match="dout is a Tensor, which NumPy cannot convert to an array"):
            any_client.compute(predict, label, dout)
    y = any_client.compute(predict, label, torch.full((COUNT,), 0.5))
    np.testing.assert_array_equal(y, expected(predict, label, np.full(COUNT, 0.5, "f4")))
