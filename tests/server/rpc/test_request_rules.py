from __future__ import annotations

from mse_grad.tensor import BFLOAT16, FLOAT32, FLOAT64, Reduction
from mse_grad_server.rpc.request_rules import check_chunk, check_header
from support.server.raw_stream import chunk, header


def test_a_header_determines_the_computation() -> None:
    work = check_header(header(1, (2, 3), dtype=BFLOAT16.wire, reduction=Reduction.SUM))
    assert (work.spec.dtype, work.spec.reduction, work.spec.numel) == (BFLOAT16, Reduction.SUM, 6)
    assert (work.count, work.operand_bytes, work.spec.scalar_dout) == (6, 36, False)


def test_a_scalar_dout_is_not_counted_as_a_tensor() -> None:
    work = check_header(header(1, (2, 3), scalar_dout=bytes(4)))
    assert (work.spec.scalar_dout, work.operand_bytes) == (True, 48)


def test_the_numel_of_the_whole_replaces_the_count() -> None:
    assert check_header(header(1, (4,), numel=2**40)).spec.numel == 2**40


def test_several_tensors_count_as_one_except_for_the_mean() -> None:
    work = check_header(header(1, (2, 3), tensors=5))
    assert (work.spec.numel, work.count, work.operand_bytes) == (6, 30, 3 * 30 * 4)
    assert check_header(header(1, (2, 3), tensors=1)) == check_header(header(1, (2, 3)))


def test_counts_have_64_bits() -> None:
    work = check_header(header(1, (2**30, 2**28), dtype=FLOAT64.wire))
    assert (work.count, work.operand_bytes) == (2**58, 3 * 2**61)


def test_the_same_shape_is_not_checked_twice() -> None:
    assert check_header(header(1, (4, 5))) is check_header(header(2, (4, 5), request_id="another"))


def test_a_chunk_says_how_many_elements_it_has() -> None:
    work = check_header(header(1, (4,)))
    assert check_chunk(chunk(1, 1, [1.0, 2.0, 3.0]), work, received=1) == 3
    assert work.spec.dtype is FLOAT32
