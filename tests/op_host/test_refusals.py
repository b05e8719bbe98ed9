"""Refusals of the operators in the first phase of a call, before any launch, and their messages."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.npu.simulator import require_simulator

FLOAT32, FLOAT16, INT32, DOUBLE, BFLOAT16 = 0, 1, 3, 11, 27  # aclDataType
FORMAT_ND = 2
REPEATED_INIT = 100002


@dataclass(frozen=True)
class Described:
    """A tensor without memory, which the first phase does not read."""

    shape: tuple[int, ...] = (2, 3)
    dtype: int = FLOAT32


class FirstPhase:
    """Calls aclnnMseLossGrad[Part]GetWorkspaceSize."""

    def __init__(self, libraries: Path) -> None:
        self._acl = ctypes.CDLL(str(libraries / "libacl_rt.so"), ctypes.RTLD_GLOBAL)
        self._nnopbase = ctypes.CDLL(str(libraries / "libnnopbase.so"), ctypes.RTLD_GLOBAL)
        self._api = ctypes.CDLL(str(libraries / "libcust_opapi.so"), ctypes.RTLD_GLOBAL)
        self._acl.aclGetRecentErrMsg.restype = c_char_p
        self._nnopbase.aclCreateTensor.restype = c_void_p

    def __call__(
        self,
        predict: Described = Described(),
        label: Described = Described(),
        dout: Described = Described(),
        y: Described = Described(),
        *,
        reduction: str = "mean",
        numel: int | None = None,
    ) -> str:
        """Returns "" if the call is accepted, else the reason; with `numel` the operator is MseLossGradPart."""
        operator = "aclnnMseLossGrad" if numel is None else "aclnnMseLossGradPart"
        tensors = [self._create(tensor) for tensor in (predict, label, dout, y)]
        workspace_bytes, executor = c_uint64(), c_void_p()
        attributes = [c_char_p(reduction.encode()), *([] if numel is None else [c_int64(numel)])]
        try:
            status = self._api[f"{operator}GetWorkspaceSize"](
                *tensors[:3], *attributes, tensors[3], byref(workspace_bytes), byref(executor)
            )
        finally:
            for tensor in tensors:
                self._nnopbase.aclDestroyTensor(tensor)
        if status == 0:
            self._nnopbase.aclDestroyAclOpExecutor(executor)
            assert workspace_bytes.value == 0
            return ""
        return str(self._acl.aclGetRecentErrMsg().decode())

    def _create(self, tensor: Described) -> c_void_p:
        rank = len(tensor.shape)
        extents = (c_int64 * rank)(*tensor.shape)
        return c_void_p(
            self._nnopbase.aclCreateTensor(
                extents, c_uint64(rank), tensor.dtype, None, c_int64(0), FORMAT_ND, extents, c_uint64(rank), None
            )
        )


@pytest.fixture(scope="module")
def first_phase() -> Iterator[FirstPhase]:
    libraries = require_simulator()
    acl = ctypes.CDLL(str(libraries / "libacl_rt.so"), ctypes.RTLD_GLOBAL)
    initialised = acl.aclInit(None)
    assert initialised in (0, REPEATED_INIT)
    assert acl.aclrtSetDevice(0) == 0
    yield FirstPhase(libraries)
    assert acl.aclrtResetDevice(0) == 0
    # ACL may have been initialised earlier in this process; then it is not finalised here.
    if initialised == 0:
        assert acl.aclFinalize() == 0


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (1,) * 8])
def test_everything_that_the_table_allows_is_accepted(
    first_phase: FirstPhase, shape: tuple[int, ...], dtype: int
) -> None:
    tensor = Described(shape, dtype)
    for dout in (tensor, Described((), dtype), Described((1,), dtype)):
        for reduction in ("none", "mean", "sum"):
            assert first_phase(tensor, tensor, dout, tensor, reduction=reduction) == ""
            assert first_phase(tensor, tensor, dout, tensor, reduction=reduction, numel=2**40) == ""


@pytest.mark.parametrize("numel", [None, 7])
def test_label_y_and_dout_of_another_shape_are_refused_by_name(first_phase: FirstPhase, numel: int | None) -> None:
    other = Described((3, 2))
    message = "predict has shape [2, 3], {} has [3, 2]; they must be equal"
    assert message.format("label") in first_phase(label=other, numel=numel)
    assert message.format("y") in first_phase(y=other, numel=numel)
    assert "predict has shape [2, 3], dout has [3, 2]; dout must have the shape" in first_phase(dout=other, numel=numel)


def test_dout_is_not_broadcast(first_phase: FirstPhase) -> None:
    for shape in ((3,), (1, 3), (2, 1), (1, 1)):
        assert "dout must have the shape of predict or one element" in first_phase(dout=Described(shape))


def test_tensors_of_two_dtypes_are_refused(first_phase: FirstPhase) -> None:
    half = Described(dtype=FLOAT16)
    assert first_phase(label=half) != ""
    assert first_phase(dout=half) != ""
    assert first_phase(y=half) != ""


@pytest.mark.parametrize("dtype", [INT32, DOUBLE])
def test_dtype_outside_the_table_is_refused(first_phase: FirstPhase, dtype: int) -> None:
    tensor = Described(dtype=dtype)
    assert first_phase(tensor, tensor, tensor, tensor) != ""


def test_rank_9_is_refused(first_phase: FirstPhase) -> None:
    tensor = Described((1,) * 9)
    assert "predict has 9 dimensions; at most 8 are allowed" in first_phase(tensor, tensor, tensor, tensor)


@pytest.mark.parametrize("numel", [None, 6])
def test_unknown_reduction_is_refused_with_the_known_ones(first_phase: FirstPhase, numel: int | None) -> None:
    message = 'reduction is "max"; it must be "none", "mean" or "sum"'
    assert message in first_phase(reduction="max", numel=numel)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_numel_below_one_is_refused_and_below_the_element_count_is_not(first_phase: FirstPhase, reduction: str) -> None:
    assert "numel is 0; it must be at least 1" in first_phase(reduction=reduction, numel=0)
    assert first_phase(reduction=reduction, numel=5) == ""  # several tensors in one launch
    assert first_phase(reduction=reduction, numel=6) == ""


def test_counts_past_32_bits_are_accepted_and_past_64_refused(first_phase: FirstPhase) -> None:
    large = Described((65536, 65537))
    assert first_phase(large, large, large, large) == ""
    huge = Described((2**32, 2**31))
    assert "more than 2^63 - 1" in first_phase(huge, huge, huge, huge)


def test_a_refusal_names_the_operator(first_phase: FirstPhase) -> None:
    assert "MseLossGrad: " in first_phase(reduction="max")
    assert "MseLossGradPart: " in first_phase(reduction="max", numel=6)
