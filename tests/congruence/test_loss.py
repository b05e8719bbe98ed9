"""The loss for PyTorch beside PyTorch's own: the same loss, gradients, warnings and rules."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mse_grad.tensor import DType
from mse_grad_client import InvalidArgument, MseGradClient, Unavailable, Unimplemented
from mse_grad_client.options import ClientOptions, RetryOptions
from mse_grad_client.pytorch import array_of
from support.server.backends import running_on
from support.tools import require_module
from support.values import expected

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
pytestmark = pytest.mark.slow  # slow, like all tests that need more than `make test` installs

REDUCTIONS = ("none", "mean", "sum")
LARGEST_16_BIT_ERROR = {"float16": 2**-9, "bfloat16": 2**-6}


@pytest.fixture(autouse=True)
def pytorch() -> None:
    require_module("torch")
    torch.manual_seed(5)


@pytest.fixture(scope="module")
def cpu_client() -> Iterator[MseGradClient]:
    """A client of a server with the CPU backend, which computes float64 too."""
    with running_on("cpu") as process, MseGradClient(process.address) as connected:
        yield connected


@pytest.fixture
def mse_loss() -> Any:
    return importlib.import_module("mse_grad_client.pytorch").mse_loss


@pytest.fixture
def theirs() -> Any:
    return torch.nn.functional.mse_loss


def pair(*shape: int, dtype: str = "float32") -> tuple[Any, Any]:
    made = [torch.randn(shape).to(getattr(torch, dtype)).requires_grad_() for _ in range(2)]
    return made[0], made[1]


def gradients(loss: Callable[..., Any], operands: tuple[Any, ...], dout: Any = None, **options: Any) -> tuple[Any, ...]:
    """Returns the loss and the gradients of all operands."""
    value = loss(*operands, **options)
    return value.detach(), *torch.autograd.grad(value, operands, torch.ones_like(value) if dout is None else dout)


def same_bits(first: Any, second: Any) -> bool:
    """Whether two tensors have the same elements, signs of zeros included."""
    signs = torch.signbit(first), torch.signbit(second)
    return bool(first.dtype == second.dtype and torch.equal(first, second) and torch.equal(*signs))


@pytest.mark.filterwarnings("ignore")  # of broadcasting, which some samples do; and of PyTorch's test module
def test_the_samples_of_opinfo_have_pytorchs_bits_or_round_once(
    client: MseGradClient, dtypes: tuple[DType, ...], mse_loss: Any, theirs: Any
) -> None:
    require_module("expecttest")
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    (operator,) = (each for each in op_db if each.name == "nn.functional.mse_loss")
    for dtype in dtypes:
        count = 0
        for sample in operator.sample_inputs("cpu", getattr(torch, dtype.name), requires_grad=True):
            operands = sample.input, *sample.args
            dout = torch.randn_like(theirs(*operands, **sample.kwargs))
            found = gradients(mse_loss, operands, dout, **sample.kwargs, client=client)
            wanted = gradients(theirs, operands, dout, **sample.kwargs)
            count += 1
            if dtype.name in LARGEST_16_BIT_ERROR:
                assert same_bits(found[0], wanted[0])
                reduction = sample.kwargs.get("reduction", "mean")
                predict, label, upstream = (array_of(each.detach().contiguous()) for each in (*operands, dout))
                assert array_of(found[1]).tobytes() == expected(predict, label, upstream, reduction).tobytes()
                error = LARGEST_16_BIT_ERROR[dtype.name]
                assert all(map(lambda a, b: torch.allclose(a, b, rtol=error, atol=1e-4), found[1:], wanted[1:]))
            else:
                assert all(map(same_bits, found, wanted)), str(sample)
        assert count >= 6, f"{count} samples of {dtype.name}"


def test_a_small_model_ends_with_the_same_weights(client: MseGradClient, theirs: Any, mse_loss: Any) -> None:
    def trained(loss: Callable[[Any, Any], Any]) -> list[Any]:
        torch.manual_seed(11)
        model = torch.nn.Sequential(torch.nn.Linear(13, 24), torch.nn.Tanh(), torch.nn.Linear(24, 5))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        x = torch.randn(64, 13)
        target = torch.sin(x[:, :5] * 3)
        for _ in range(50):
            optimizer.zero_grad()
            loss(model(x), target).backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    for reduction in ("mean", "sum"):
        ours = trained(lambda x, target, r=reduction: mse_loss(x, target, r, client=client))  # type: ignore[misc]
        assert all(map(same_bits, ours, trained(lambda x, t, r=reduction: theirs(x, t, reduction=r))))  # type: ignore[misc]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_passes_in_float64(cpu_client: MseGradClient, mse_loss: Any, reduction: str) -> None:
    for operands in (pair(3, 4, dtype="float64"), (pair(3, 4, dtype="float64")[0], torch.randn(3, 4).double())):
        assert torch.autograd.gradcheck(lambda x, t: mse_loss(x, t, reduction, client=cpu_client), operands)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_zeros_have_pytorchs_signs(cpu_client: MseGradClient, mse_loss: Any, theirs: Any, reduction: str) -> None:
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38, float("inf")])
    operands = tuple(each.clone().requires_grad_() for each in torch.cartesian_prod(values, values).T)
    value = theirs(*operands, reduction=reduction)
    for factor in (1.0, -1.0, 0.0, -0.0, 1e-30):
        dout = torch.full_like(value, factor)
        found = gradients(mse_loss, operands, dout, reduction=reduction, client=cpu_client)
        wanted = gradients(theirs, operands, dout, reduction=reduction)
        for mine, other in zip(found, wanted, strict=True):
            is_number = ~torch.isnan(other)
            assert torch.equal(torch.isnan(mine), ~is_number)
            assert same_bits(mine[is_number], other[is_number])


@pytest.mark.parametrize(
    "shapes", [((3, 4), (4,)), ((4,), (3, 4)), ((5, 1), (5,)), ((), (2, 3)), ((2, 0), (1, 1))], ids=str
)
def test_broadcasting_has_pytorchs_warning_and_bits(
    cpu_client: MseGradClient, mse_loss: Any, theirs: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    operands = tuple(torch.randn(shape, requires_grad=True) for shape in shapes)
    told: list[tuple[str | bytes, ...]] = []
    for loss, options in ((mse_loss, {"client": cpu_client}), (theirs, {})):
        with pytest.warns(UserWarning, match="different to the input size") as caught:
            value = loss(*operands, **options)
        told.append((str(caught[0].message), caught[0].filename))
        assert len(caught) == 1
        if value.numel() and not torch.isnan(value):
            found = torch.autograd.grad(value, operands)
            told[-1] += tuple(array_of(each).tobytes() for each in found)
    assert told[0] == told[1]
    assert told[0][1] == __file__


def test_shapes_that_do_not_broadcast_fail_as_in_pytorch(cpu_client: MseGradClient, mse_loss: Any, theirs: Any) -> None:
    operands = torch.randn(3, requires_grad=True), torch.randn(4)
    for loss, options in ((mse_loss, {"client": cpu_client}), (theirs, {})):
        with (
            pytest.warns(UserWarning, match="different to"),
            pytest.raises(RuntimeError, match="must match the size of tensor b"),
        ):
            loss(*operands, **options)


def test_an_unknown_reduction_fails_as_in_pytorch(cpu_client: MseGradClient, mse_loss: Any) -> None:
    with pytest.raises(ValueError, match="average is not a valid value for reduction"):
        mse_loss(*pair(3), "average", client=cpu_client)


def test_a_second_derivative_is_refused_in_words(cpu_client: MseGradClient, mse_loss: Any) -> None:
    predict, target = pair(3)
    first = torch.autograd.grad(mse_loss(predict, target, client=cpu_client), (predict, target), create_graph=True)
    for gradient in first:
        with pytest.raises(Unimplemented, match=r"no second derivative; use torch\.nn\.functional\.mse_loss"):
            torch.autograd.grad(gradient.sum(), predict, retain_graph=True)


class Recorder:
    """A client that keeps the tensors it was asked to compute with."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: list[tuple[Any, ...]] = []

    def compute(self, predict: Any, label: Any, dout: Any, reduction: str) -> Any:
        self.calls.append((predict, label, dout, reduction))
        return self._client.compute(predict, label, dout, reduction)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_server_receives_the_memory_of_the_operands(cpu_client: Any, mse_loss: Any, dtype: str) -> None:
    recorder = Recorder(cpu_client)
    operands = pair(100, dtype=dtype)
    gradients(mse_loss, operands, client=recorder)
    ((predict, label, dout, reduction),) = recorder.calls  # one request for both gradients
    assert (predict.data_ptr(), label.data_ptr()) == tuple(each.data_ptr() for each in operands)
    assert {str(each.dtype) for each in (predict, label, dout)} == {f"torch.{dtype}"}
    assert (dout.shape, reduction) == ((), "mean")


def test_nothing_is_sent_without_a_gradient_to_compute(mse_loss: Any, theirs: Any) -> None:
    predict, target = pair(3)
    with torch.no_grad():
        assert same_bits(mse_loss(predict, target, client=None), theirs(predict, target))
    with torch.inference_mode():
        assert same_bits(mse_loss(predict, target, client=None), theirs(predict, target))
    value = mse_loss(predict.detach(), target.detach(), client=None)
    assert not value.requires_grad


@pytest.mark.parametrize("position", [0, 1])
def test_only_the_operand_that_requires_grad_gets_one(
    cpu_client: MseGradClient, mse_loss: Any, theirs: Any, position: int
) -> None:
    operands = list(pair(7))
    operands[1 - position] = operands[1 - position].detach()
    for loss, options in ((mse_loss, {"client": cpu_client}), (theirs, {})):
        loss(*operands, **options).backward()
    assert operands[1 - position].grad is None
    twice = operands[position].grad
    (once,) = torch.autograd.grad(theirs(*operands), operands[position])
    assert torch.equal(twice, once + once)


@pytest.mark.parametrize(
    ("first", "second"), [("bfloat16", "float32"), ("float32", "float64"), ("float32", "int64"), ("float16", "float32")]
)
def test_other_dtypes_are_promoted_as_in_pytorch(
    cpu_client: MseGradClient, mse_loss: Any, theirs: Any, first: str, second: str
) -> None:
    predict = torch.randn(9).to(getattr(torch, first)).requires_grad_()
    target = (torch.randn(9) * 9).to(getattr(torch, second))
    found = gradients(lambda x, **options: mse_loss(x, target, **options), (predict,), client=cpu_client)
    wanted = gradients(lambda x: theirs(x, target), (predict,))
    assert all(map(same_bits, found, wanted))


@pytest.mark.parametrize(("first", "second"), [("bfloat16", "float32"), ("bfloat16", "bfloat16")])
def test_autocast_computes_in_float32_as_in_pytorch(
    cpu_client: MseGradClient, mse_loss: Any, theirs: Any, first: str, second: str
) -> None:
    operands = pair(9, dtype=first)[0], pair(9, dtype=second)[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours, their_own = mse_loss(*operands, client=cpu_client), theirs(*operands)
    assert same_bits(ours.detach(), their_own.detach())
    assert ours.dtype == torch.float32
    assert all(map(same_bits, torch.autograd.grad(ours, operands), torch.autograd.grad(their_own, operands)))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo reads it at every graph break
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_breaks_the_graph_and_computes_the_same(
    cpu_client: MseGradClient, mse_loss: Any, backend: str
) -> None:
    def function(x: Any, target: Any) -> Any:
        return mse_loss(x * 2, target, client=cpu_client) * 3

    operands = pair(6)
    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend)
    assert all(map(same_bits, gradients(compiled, operands), gradients(function, operands)))
    with torch.no_grad():
        assert same_bits(compiled(*operands), function(*operands))


def test_more_dimensions_than_the_contract_has_are_flattened(
    cpu_client: MseGradClient, mse_loss: Any, theirs: Any
) -> None:
    operands = pair(*[2] * 10)
    for reduction in REDUCTIONS:
        found = gradients(mse_loss, operands, reduction=reduction, client=cpu_client)
        assert all(map(same_bits, found, gradients(theirs, operands, reduction=reduction)))


def test_any_strides_and_a_negative_bit_do_not_matter(cpu_client: MseGradClient, mse_loss: Any, theirs: Any) -> None:
    whole = torch.randn(8, 6, dtype=torch.complex64)
    predict, target = whole.T[::2].real, whole.conj().imag.T[1::2]
    assert target.is_neg()
    found: list[Any] = []
    wanted: list[Any] = []
    for results, loss, options in ((found, mse_loss, {"client": cpu_client}), (wanted, theirs, {})):
        leaf = predict.detach().requires_grad_()
        results += gradients(lambda x, loss=loss, options=options: loss(x, target, **options), (leaf,))
    assert all(map(same_bits, found, wanted))


def test_errors_of_the_client_come_out_of_backward(mse_loss: Any) -> None:
    once = ClientOptions(retry=RetryOptions(max_attempts=1))
    predict, target = pair(3)
    with MseGradClient("127.0.0.1:1", options=once) as without_server:
        value = mse_loss(predict, target, client=without_server)
        with pytest.raises(Unavailable):
            value.backward()
    assert predict.grad is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.ones(3, device="meta", requires_grad=True), "input is on meta; it must be on the CPU or an NPU"),
        (
            lambda: torch.masked.masked_tensor(torch.ones(3), torch.ones(3, dtype=torch.bool), requires_grad=True),
            "MaskedTensor",
        ),
    ],
    ids=["meta", "masked"],
)
@pytest.mark.filterwarnings("ignore")  # PyTorch warns that masked tensors are a prototype
def test_a_tensor_that_no_server_can_read_is_refused_before_the_loss(
    cpu_client: MseGradClient, mse_loss: Any, make: Callable[[], Any], words: str
) -> None:
    given = make()
    with pytest.raises((InvalidArgument, TypeError), match=words):
        mse_loss(given, torch.ones(3, device=given.device), client=cpu_client)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_trace_which_would_leave_the_gradient_out_is_refused(cpu_client: MseGradClient, mse_loss: Any) -> None:
    predict, target = torch.randn(3, requires_grad=True), torch.randn(3)
    with pytest.raises(InvalidArgument, match=r"torch\.jit\.trace records no gradients of a server"):
        torch.jit.trace(lambda x: mse_loss(x, target, client=cpu_client), predict)


def test_the_module_is_the_function(cpu_client: MseGradClient, mse_loss: Any) -> None:
    module = importlib.import_module("mse_grad_client.pytorch").MSELoss("sum", client=cpu_client)
    operands = pair(4)
    wanted = gradients(mse_loss, operands, reduction="sum", client=cpu_client)
    assert all(map(same_bits, gradients(module, operands), wanted))
    assert dict(module.state_dict()) == {}
    assert repr(module) == f"MSELoss(reduction='sum', client={cpu_client!r})"
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert all(map(same_bits, gradients(clone, operands), wanted))
        clone.client.close()


def test_threads_share_a_loss(cpu_client: MseGradClient, mse_loss: Any) -> None:
    operands = [pair(1000) for _ in range(4)]
    found: dict[int, tuple[Any, ...]] = {}

    def run(number: int) -> None:
        found[number] = gradients(mse_loss, operands[number], client=cpu_client)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(operands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, each in enumerate(operands):
        assert all(map(same_bits, found[number], gradients(mse_loss, each, client=cpu_client)))


def test_checkpoints_recompute_the_loss(cpu_client: MseGradClient, mse_loss: Any) -> None:
    operands = pair(8)

    def loss(x: Any, target: Any) -> Any:
        return mse_loss(torch.tanh(x), target, client=cpu_client)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint = importlib.import_module("torch.utils.checkpoint").checkpoint
        found = gradients(lambda x, t: checkpoint(loss, x, t, use_reentrant=False), operands)
    assert all(map(same_bits, found, gradients(loss, operands)))
