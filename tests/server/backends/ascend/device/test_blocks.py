from __future__ import annotations

import pytest

from mse_grad.tensor import BFLOAT16, FLOAT16, FLOAT32, DType, Reduction
from mse_grad_server.backends.ascend.acl.runtime import DataType
from mse_grad_server.backends.ascend.device.blocks import ALIGNMENT_BYTES, LaunchKey, Layout, cut
from mse_grad_server.backends.base import GradientSpec

KIB = 1024


@pytest.mark.parametrize("elements", [1, 255, 256, 257, 1000, 4096])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_blocks_cover_a_tensor_once_and_in_order(elements: int, dtype: DType) -> None:
    blocks = list(cut(GradientSpec(dtype, Reduction.SUM, elements, False), elements, KIB))
    ends = [start + key.elements for start, key in blocks]
    assert [start for start, _ in blocks] == [0, *ends[:-1]]
    assert ends[-1] == elements
    assert all(key.elements * dtype.itemsize_bytes <= KIB for _, key in blocks)


def test_the_blocks_of_a_mean_carry_the_count_of_the_whole() -> None:
    spec = GradientSpec(FLOAT32, Reduction.MEAN, 600, False)
    assert [key.numel for _, key in cut(spec, 600, KIB)] == [600, 600, 600]


def test_a_mean_of_one_block_carries_its_own_count() -> None:
    ((_, key),) = cut(GradientSpec(FLOAT32, Reduction.MEAN, 200, False), 200, KIB)
    assert key == LaunchKey(200, DataType.FLOAT, Reduction.MEAN, 200, False)


@pytest.mark.parametrize("reduction", [Reduction.SUM, Reduction.NONE])
def test_a_block_of_another_reduction_is_a_gradient_of_its_own(reduction: Reduction) -> None:
    keys = {key for _, key in cut(GradientSpec(FLOAT32, reduction, 10_000, False), 512, KIB)}
    assert keys == {LaunchKey(256, DataType.FLOAT, reduction, 256, False)}


def test_a_tensor_of_any_size_has_two_kinds_of_blocks() -> None:
    assert len({key for _, key in cut(GradientSpec(FLOAT16, Reduction.MEAN, 99_999, True), 99_999, KIB)}) == 2


@pytest.mark.parametrize("scalar_dout", [False, True])
@pytest.mark.parametrize("elements", [1, 127, 128, 129, 1000])
def test_operands_lie_aligned_behind_one_another(elements: int, scalar_dout: bool) -> None:
    layout = Layout.of(LaunchKey(elements, DataType.FLOAT, Reduction.SUM, elements, scalar_dout))
    dout_bytes = 4 if scalar_dout else 4 * elements
    assert (layout.operand_bytes, layout.dout_bytes) == (4 * elements, dout_bytes)
    offsets = (0, layout.label, layout.dout, layout.y)
    sizes = (layout.operand_bytes, layout.operand_bytes, layout.dout_bytes, layout.operand_bytes)
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    assert all(offset % ALIGNMENT_BYTES == 0 for offset in offsets)
    assert all(end <= begin for end, begin in zip(ends, offsets[1:], strict=False))
    assert layout.in_bytes == layout.y + min(64, layout.operand_bytes)
    assert ends[3] <= Layout.slot_bytes(4 * elements)
