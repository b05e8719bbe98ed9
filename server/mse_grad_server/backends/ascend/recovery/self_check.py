"""Self-check of a device with gradients of known values: at the start, and after every repair above a retry."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from mse_grad import formula
from mse_grad.tensor import Array, Reduction
from mse_grad_server.backends.ascend.acl.error_codes import WrongGradient
from mse_grad_server.backends.ascend.acl.runtime import Acl, DataType
from mse_grad_server.backends.ascend.device.blocks import DTYPES, Layout, cut
from mse_grad_server.backends.ascend.device.canary import CANARY
from mse_grad_server.backends.ascend.device.device import Device
from mse_grad_server.backends.ascend.device.jobs import Job
from mse_grad_server.backends.ascend.device.pipeline import Pipeline
from mse_grad_server.backends.ascend.device.slots import SlotPool
from mse_grad_server.backends.base import GradientSpec

__all__ = ["check_gradients", "every_kind", "one_kind_per_dtype", "subnormal_dtypes"]

# Odd, so that the last copy of a core has a ragged end.
_ELEMENTS = 1037
_TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class _Operands:
    predict: Array
    label: Array
    dout: Array


def every_kind() -> Iterable[GradientSpec]:
    """Yields each dtype with each reduction, with full and with scalar dout; for mean also a part of a tensor."""
    for dtype, reduction, scalar_dout in itertools.product(DTYPES, Reduction, (False, True)):
        yield GradientSpec(dtype, reduction, _ELEMENTS, scalar_dout)
        if reduction is Reduction.MEAN:
            yield GradientSpec(dtype, reduction, 3 * _ELEMENTS, scalar_dout)


def one_kind_per_dtype() -> Iterable[GradientSpec]:
    """Yields one kind for each dtype: the mean of a whole tensor with full dout."""
    return (GradientSpec(dtype, Reduction.MEAN, _ELEMENTS, False) for dtype in DTYPES)


def check_gradients(acl: Acl, device: Device, kinds: Iterable[GradientSpec]) -> int:
    """Computes one gradient of each kind on memory filled with the canary and returns their number. The call blocks.

    The device must be open, with nothing queued on it.

    Raises:
        AclError: A call failed.
        WrongGradient: A gradient differs from the formula.
    """
    count = 0
    for spec in kinds:
        _check(acl, device, spec)
        count += 1
    return count


def subnormal_dtypes(acl: Acl, device: Device) -> frozenset[DataType]:
    """Returns the data types in which the device computes subnormal numbers as the formula does. The call blocks.

    The device must be open, with nothing queued on it.

    Raises:
        AclError: A call failed.
    """
    kept = []
    for dtype in DTYPES:
        spec = GradientSpec(dtype, Reduction.SUM, _ELEMENTS, False)
        y, expected = _computed(acl, device, spec, _subnormal_operands(spec))
        if y.tobytes() == expected.tobytes():
            ((_, key),) = cut(spec, _ELEMENTS, device.options.block_bytes)
            kept.append(key.data_type)
    return frozenset(kept)


def _check(acl: Acl, device: Device, spec: GradientSpec) -> None:
    y, expected = _computed(acl, device, spec, _operands(spec))
    bits = f"u{spec.dtype.itemsize_bytes}"
    wrong = np.flatnonzero(y.view(bits) != expected.view(bits))
    if wrong.size:
        first = int(wrong[0])
        raise WrongGradient(
            f"the device computed a wrong gradient for {spec.dtype.name}, {spec.reduction.text} of {spec.numel}, "
            f"{'scalar' if spec.scalar_dout else 'full'} dout: {wrong.size} of {_ELEMENTS} elements differ from the "
            f"formula, the first at {first}: {y[first]!s} instead of {expected[first]!s}"
        )


def _computed(acl: Acl, device: Device, spec: GradientSpec, operands: _Operands) -> tuple[Array, Array]:
    """Returns the gradient that the device computes, and that of the formula."""
    slot = device.slots[0]
    ((_, key),) = cut(spec, _ELEMENTS, device.options.block_bytes)
    layout = Layout.of(key)
    acl.fill(slot.device, layout.y + layout.operand_bytes, CANARY)
    slot.fill(layout, operands.predict, operands.label, operands.dout)
    slot.stain(layout, CANARY)
    pipeline = Pipeline(acl, device)
    pipeline.queue(Job(key, slot, SlotPool()))
    pipeline.drain(_TIMEOUT_MS, is_checked=False)
    y = np.empty(_ELEMENTS, spec.dtype.numpy)
    slot.read(layout, y)
    expected = np.empty(_ELEMENTS, spec.dtype.numpy)
    c = formula.coefficient(spec.reduction, spec.numel, spec.dtype)
    formula.gradient_into(expected, operands.predict, operands.label, operands.dout, c=c, dtype=spec.dtype)
    return y, expected


def _operands(spec: GradientSpec) -> _Operands:
    random = np.random.default_rng(0)
    dtype = spec.dtype.numpy
    return _Operands(
        random.standard_normal(_ELEMENTS).astype(dtype),
        random.standard_normal(_ELEMENTS).astype(dtype),
        random.uniform(0.5, 2.0, 1 if spec.scalar_dout else _ELEMENTS).astype(dtype),
    )


def _subnormal_operands(spec: GradientSpec) -> _Operands:
    """Returns operands that are subnormal, or whose difference or gradient is subnormal."""
    dtype = spec.dtype.numpy
    limits: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    normal, subnormal = float(limits.smallest_normal), 3 * float(limits.smallest_subnormal)
    rows = (
        # predict, label, dout
        (subnormal, 0.0, 1.0),
        (0.0, subnormal, 2.0**10),
        (1.5, 0.5, subnormal),
        (1.25 * normal, normal, 1.0),
        (normal, 0.0, 0.25),
        (1.25 * normal, normal, 2.0**10),
    )
    predict, label, dout = (
        np.resize(np.array(column, np.float64), _ELEMENTS).astype(dtype) for column in zip(*rows, strict=True)
    )
    return _Operands(predict, label, dout)
