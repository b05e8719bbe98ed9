// Kernels whose calls get arguments that they refuse, or only just accept.
#include "rules.h"

using namespace rules;

LOCAL_KERNEL(vector_on_unaligned_ub) {
    Bench bench;
    Duplicate(bench.Floats()[1], 1.0f, 8);
}

LOCAL_KERNEL(vector_past_its_buffer) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount + 1);
}

LOCAL_KERNEL(vector_on_no_buffer) {
    Bench bench;
    Duplicate(LocalTensor<float>(), 1.0f, 8);
}

LOCAL_KERNEL(vector_in_part_on_its_source) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    PipeBarrier<PIPE_V>();
    Muls(bench.Floats()[8], bench.Floats(), 2.0f, 16);
}

LOCAL_KERNEL(vector_on_nothing) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, 0);
}

LOCAL_KERNEL(offset_past_the_tensor) {
    Bench bench;
    bench.Floats()[kCount + 1];
}

LOCAL_KERNEL(set_size_past_the_buffer) {
    Bench bench;
    bench.scratch.Get<float>(kCount + 1);
}

LOCAL_KERNEL(muls_of_bfloat16) {
    Bench bench;
    const LocalTensor<bfloat16_t> tensor = bench.scratch.Get<bfloat16_t>();
    Muls(tensor, tensor, bfloat16_t(2.0f), 16);
}

LOCAL_KERNEL(add_of_bfloat16) {
    Bench bench;
    const LocalTensor<bfloat16_t> tensor = bench.scratch.Get<bfloat16_t>();
    Add(tensor, tensor, tensor, 16);
}

LOCAL_KERNEL(cast_none_to_bfloat16) {
    Bench bench(2 * kBytes);
    Cast(bench.scratch.Get<bfloat16_t>(), bench.Floats()[kCount], RoundMode::CAST_NONE, kCount);
}

LOCAL_KERNEL(cast_rint_from_half) {
    Bench bench(2 * kBytes);
    Cast(bench.Floats(), bench.scratch.Get<half>()[2 * kCount], RoundMode::CAST_RINT, kCount);
}

LOCAL_KERNEL(scalar_cast_of_bfloat16) { Cast(bfloat16_t(1.0f)); }

KERNEL(data_copy_of_odd_bytes) {
    (void)y;
    Bench bench;
    DataCopy(bench.Floats(), Global(x), 7);
}

KERNEL(data_copy_given_bytes) {
    (void)y;
    Bench bench;
    DataCopy(bench.Floats(), Global(x), DataCopyParams(1, kBytes, 0, 0));
}

KERNEL(copy_to_unaligned_ub) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats()[1], Global(x), Bytes(4), DataCopyPadExtParams<float>());
}

KERNEL(copy_in_to_veccalc) {
    (void)y;
    TPipe pipe;
    TBuf<TPosition::VECCALC> calc;
    pipe.InitBuffer(calc, kBytes);
    DataCopyPad(calc.Get<float>(), Global(x), Bytes(kBytes), DataCopyPadExtParams<float>());
}

KERNEL(copy_out_of_veccalc) {
    (void)x;
    TPipe pipe;
    TBuf<TPosition::VECCALC> calc;
    pipe.InitBuffer(calc, kBytes);
    Duplicate(calc.Get<float>(), 1.0f, kCount);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y), calc.Get<float>(), Bytes(kBytes));
}

KERNEL(data_copy_in_to_vecout) {
    (void)y;
    TPipe pipe;
    OutQueue queue;
    pipe.InitBuffer(queue, 1, kBytes);
    DataCopy(queue.AllocTensor<float>(), Global(x), kCount);
}

KERNEL(data_copy_out_of_vecin) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    PipeBarrier<PIPE_ALL>();
    DataCopy(Global(y), bench.Floats(), kCount);
}

KERNEL(copy_of_too_many_blocks) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), DataCopyExtParams(4096, 4, 0, 0, 0), DataCopyPadExtParams<float>());
}

KERNEL(copy_of_too_long_a_block) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), Bytes(2097152), DataCopyPadExtParams<float>());
}

KERNEL(copy_of_half_an_item) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), Bytes(6), DataCopyPadExtParams<float>());
}

KERNEL(copy_with_too_much_padding) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), Bytes(4), DataCopyPadExtParams<float>(true, 0, 9, 0.0f));
}

KERNEL(copy_of_nothing) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), Bytes(0), DataCopyPadExtParams<float>());
}

KERNEL(copy_past_its_buffer) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x), Bytes(kBytes + 4), DataCopyPadExtParams<float>());
}

KERNEL(copy_in_past_the_tensor) {
    (void)y;
    Bench bench;
    DataCopyPad(bench.Floats(), Global(x)[kCount - 1], Bytes(8), DataCopyPadExtParams<float>());
}

KERNEL(copy_in_before_the_tensor) {
    (void)y;
    Bench bench;
    GlobalTensor<float> before;
    before.SetGlobalBuffer(reinterpret_cast<float*>(x) - 1);
    DataCopyPad(bench.Floats(), before, Bytes(8), DataCopyPadExtParams<float>());
}

KERNEL(copy_out_past_the_tensor) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y)[kCount - 1], bench.Floats(), Bytes(8));
}

KERNEL(global_set_value) {
    (void)x;
    Global(y).SetValue(0, 1.0f);
}

KERNEL(global_get_value_past_the_tensor) {
    (void)y;
    Global(x).GetValue(kCount);
}

KERNEL(raw_pointer_past_the_tensor) {
    reinterpret_cast<volatile float*>(y)[0] = reinterpret_cast<volatile float*>(x)[kCount];
}

// Two runs of three floats each, padded with a value to 32 bytes, 32 bytes apart in UB; then all of it is copied out.
KERNEL(copy_in_with_padding) {
    Bench bench;
    Duplicate(bench.Floats(), 0.0f, 24);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(bench.Floats(), Global(x), DataCopyExtParams(2, 12, 4, 1, 0),
                DataCopyPadExtParams<float>(true, 1, 1, 9.0f));
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y), bench.Floats(), Bytes(96));
}

// From UB to runs of 12 bytes that lie 4 bytes apart in global memory.
KERNEL(copy_out_in_runs) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, 8);
    Duplicate(bench.Floats()[8], 2.0f, 8);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y), bench.Floats(), DataCopyExtParams(2, 12, 0, 4, 0));
}
