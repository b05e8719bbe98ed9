"""The rules of the simulator: a kernel that breaks one ends with the cause and the place."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mse_grad.tensor import Array
from support.npu.simulator import SCHEDULES, KernelError, Simulator, Tensor

COUNT = 64
OK = "Ascend910B3"
CHIP_310B = "Ascend310B1"

ARGUMENTS = [
    ("vector_on_unaligned_ub", "argument", "begins at byte 4 of UB"),
    ("vector_past_its_buffer", "bounds", "dst has 256 bytes left in a TBuf of 256 bytes, the call takes 260"),
    ("vector_on_no_buffer", "bounds", "without a buffer"),
    ("vector_in_part_on_its_source", "argument", "overlap in part"),
    ("offset_past_the_tensor", "bounds", "a tensor of 256 bytes from byte 260 on"),
    ("set_size_past_the_buffer", "bounds", "longer than its buffer"),
    ("muls_of_bfloat16", "unsupported", "Muls of bfloat16_t: Ascend910B3 has no such instruction"),
    ("add_of_bfloat16", "unsupported", "cast bfloat16_t to float and back"),
    ("cast_none_to_bfloat16", "unsupported", "Cast from float to bfloat16_t in rounding mode 0"),
    ("cast_rint_from_half", "unsupported", "Cast from half to float in rounding mode 1"),
    ("data_copy_of_odd_bytes", "argument", "copies 28 bytes; DataCopy takes multiples of 32"),
    ("data_copy_given_bytes", "bounds", "dst has 256 bytes left in a TBuf of 256 bytes, the call takes 8192"),
    ("copy_to_unaligned_ub", "argument", "begins at byte 4 of UB"),
    ("copy_in_to_veccalc", "argument", "dst is at VECCALC; DataCopyPad takes VECIN and VECOUT"),
    ("copy_out_of_veccalc", "argument", "src is at VECCALC; DataCopyPad takes VECIN and VECOUT"),
    ("data_copy_in_to_vecout", "argument", "dst is at VECOUT; DataCopy takes VECIN"),
    ("data_copy_out_of_vecin", "argument", "src is at VECIN; DataCopy takes VECOUT"),
    ("copy_of_too_many_blocks", "argument", "blockCount is 4096; at most 4095"),
    ("copy_of_too_long_a_block", "argument", "blockLen is 2097152 bytes; at most 2097151"),
    ("copy_of_half_an_item", "argument", "blockLen is 6 bytes, no multiple of the 4 of float"),
    ("copy_with_too_much_padding", "argument", "at most 32 a side"),
    ("copy_past_its_buffer", "bounds", "dst has 256 bytes left in a TBuf of 256 bytes, the call takes 288"),
    ("copy_in_past_the_tensor", "bounds", "reads 4 bytes past the end of x: [252, 260) of 256 bytes"),
    ("copy_in_before_the_tensor", "bounds", "reads 8 bytes, beginning 4 bytes before x"),
    ("copy_out_past_the_tensor", "bounds", "writes 4 bytes past the end of y: [252, 260) of 256 bytes"),
    ("global_get_value_past_the_tensor", "bounds", "beginning 0 bytes past the end of x"),
    ("global_set_value", "unsupported", "DataCopyPad writes single items too"),
]
BUFFERS = [
    ("more_ub_than_the_platform_reports", "unified-buffer", "more than the 196352 of UB that Ascend910B3 has"),
    ("buffer_of_no_bytes", "argument", "InitBuffer of 0 bytes"),
    ("other_length_than_configured", "argument", "InitBuffer of 512 bytes; TQueConfig says 256"),
    ("too_many_buffers", "queue", "more than 64 buffers"),
    ("too_many_queue_buffers", "queue", "10 buffers in the queues at one position; there are events for 8"),
    ("two_pipes", "queue", "a second TPipe"),
    ("queue_without_buffers", "queue", "AllocTensor on a queue that InitBuffer never saw"),
    ("alloc_without_free", "queue", "AllocTensor finds no free buffer in queue 0 (VECIN, depth 1, 1 x 256 bytes)"),
    ("enque_past_the_depth", "queue", "EnQue number 2 in a row on queue 0 (VECIN, depth 1, 2 x 256 bytes)"),
    ("enque_twice", "queue", "in the queue already"),
    ("deque_from_an_empty_queue", "queue", "which is empty"),
    ("free_twice", "queue", "free already"),
    ("free_in_the_queue", "queue", "still in the queue"),
    ("enque_of_another_buffer", "queue", "a tensor of another buffer"),
    ("end_without_enque", "queue", "allocated and never enqueued"),
    ("end_without_deque", "queue", "DeQue forgotten"),
    ("end_without_free", "queue", "FreeTensor forgotten"),
]
ORDER = [
    ("vector_before_copy_in", "race", "no queue or flag makes one of MTE2 and V wait for the other"),
    ("copy_out_before_vector", "race", "no queue or flag makes one of V and MTE3 wait for the other"),
    ("copy_in_over_what_vector_reads", "race", "makes one of MTE2 and V wait for the other"),
    ("vector_over_what_copy_out_reads", "race", "makes one of V and MTE3 wait for the other"),
    ("vector_before_vector", "race", "no PipeBarrier<PIPE_V> lies between them"),
    ("copy_in_twice", "race", "no PipeBarrier<PIPE_MTE2> lies between them"),
    ("copy_out_twice", "race", "no PipeBarrier<PIPE_MTE3> lies between them"),
    ("scalar_before_vector", "race", "no queue or flag makes one of V and S wait for the other"),
    ("vector_before_scalar", "race", "no queue or flag makes one of V and S wait for the other"),
    ("free_before_use", "poison", "nobody wrote them since InitBuffer or FreeTensor"),
    ("read_of_what_nobody_wrote", "poison", "of which those from 0 on hold poison"),
    ("read_past_what_was_copied", "poison", "of which those from 128 on hold poison"),
    ("scalar_read_of_what_is_written", "race", "the data cache is not coherent"),
    ("flag_set_twice", "flag", "a second time before its WaitFlag"),
    ("flag_set_again_before_its_wait_is_reached", "flag", "nothing makes V wait until MTE3 has taken the first"),
    ("flag_left_behind", "flag", "flag 3 from V to MTE3 is set and nothing waited for it"),
    ("wait_for_ever", "hang", "MTE3 waits for flag 3 from V, which is never set"),
    ("scalar_waits_for_ever", "hang", "pipe S waits for ever for flag 3 from V"),
    ("flag_past_the_ids", "argument", "event id 8; there are ids 0 to 7"),
    ("flag_of_a_queue", "flag", "which a queue uses"),
    ("event_ids_used_up", "flag", "none of the 8 event ids from V to MTE3 free"),
    ("event_id_released_twice", "flag", "which AllocEventID did not give"),
]
ONLY_ATLAS_A2 = [
    ("vector_on_nothing", "argument", "count is 0"),
    ("copy_of_nothing", "argument", "documented to do nothing on Atlas A2 only"),
    ("scalar_cast_of_bfloat16", "unsupported", "not supported on Atlas 200I/500 A2"),
    ("ordered_by_hard_events", "unsupported", "not supported on Atlas 200I/500 A2"),
]


def launch(simulator: Simulator, kernels: ctypes.CDLL, name: str, *, blocks: int = 1) -> tuple[Array, Array]:
    x = np.arange(COUNT, dtype=np.float32)
    y = np.zeros(COUNT, np.float32)
    simulator.launch(getattr(kernels, name), [Tensor("x", x), Tensor("y", y)], blocks=blocks, name=name)
    return x, y


@pytest.mark.parametrize(("name", "cause", "text"), [*ARGUMENTS, *BUFFERS], ids=lambda value: str(value)[:40])
def test_a_broken_rule_ends_the_launch_and_is_named(
    simulator: Simulator, kernels: ctypes.CDLL, name: str, cause: str, text: str
) -> None:
    with pytest.raises(KernelError) as raised:
        launch(simulator, kernels, name)
    assert raised.value.cause == cause
    assert text in raised.value.message
    assert f"{name}: block 0, pipe " in raised.value.message


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(schedule.values()))
@pytest.mark.parametrize(("name", "cause", "text"), ORDER, ids=lambda value: str(value)[:40])
def test_missing_order_is_seen_under_every_schedule(
    simulator: Simulator, kernels: ctypes.CDLL, schedule: dict[str, str], name: str, cause: str, text: str
) -> None:
    with simulator.settings(**schedule), pytest.raises(KernelError) as raised:
        launch(simulator, kernels, name)
    assert (raised.value.cause, text in raised.value.message) == (cause, True), raised.value


@pytest.mark.parametrize(("name", "cause", "text"), ONLY_ATLAS_A2, ids=lambda value: str(value)[:40])
def test_a_call_that_only_atlas_a2_documents_is_refused_on_310b(
    simulator: Simulator, kernels: ctypes.CDLL, name: str, cause: str, text: str
) -> None:
    launch(simulator, kernels, name)
    with simulator.settings(chip=CHIP_310B), pytest.raises(KernelError) as raised:
        launch(simulator, kernels, name)
    assert (raised.value.cause, text in raised.value.message) == (cause, True), raised.value


def test_the_larger_ub_of_310b_holds_what_910b_refuses(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    with simulator.settings(chip=CHIP_310B):
        launch(simulator, kernels, "more_ub_than_the_platform_reports")


def test_blocks_that_write_the_same_bytes_are_named(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    launch(simulator, kernels, "blocks_that_overlap")
    with pytest.raises(KernelError) as raised:
        launch(simulator, kernels, "blocks_that_overlap", blocks=2)
    assert raised.value.cause == "overlap"
    assert "block 1 writes what block 0 writes: 4 bytes from byte 28 of y" in raised.value.message


def test_a_block_must_not_read_bytes_that_another_writes(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    with pytest.raises(KernelError) as raised:
        launch(simulator, kernels, "block_that_reads_what_another_writes", blocks=2)
    assert raised.value.cause == "overlap"
    assert "reads" in raised.value.message


@pytest.mark.parametrize("name", ["ordered_by_que_sync", "ordered_by_one_id_twice", "ordered_by_hard_events"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(schedule.values()))
def test_flags_order_the_pipes(simulator: Simulator, kernels: ctypes.CDLL, schedule: dict[str, str], name: str) -> None:
    with simulator.settings(**schedule):
        x, y = launch(simulator, kernels, name)
    expected = 2 * x
    expected[0] += 1 if name == "ordered_by_que_sync" else 0
    np.testing.assert_array_equal(y, expected)


def test_a_copy_in_pads_every_run(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    _, y = launch(simulator, kernels, "copy_in_with_padding")
    np.testing.assert_array_equal(y[:24], [9, 0, 1, 2, 9, 9, 9, 9, *[0] * 8, 9, 4, 5, 6, 9, 9, 9, 9])


def test_a_copy_out_writes_its_runs_and_nothing_between(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    _, y = launch(simulator, kernels, "copy_out_in_runs")
    np.testing.assert_array_equal(y[:8], [1, 1, 1, 0, 2, 2, 2, 0])


def test_a_queue_answers_queries_about_its_tensors(simulator: Simulator, kernels: ctypes.CDLL) -> None:
    _, y = launch(simulator, kernels, "count_of_a_queue")
    # Tensors in the queue, whether a buffer is idle, whether there is room, whether there is a tensor.
    np.testing.assert_array_equal(y[:12], [0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0])
