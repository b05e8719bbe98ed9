// Kernels that lack the order between two accesses, and the same kernels with it.
#include "rules.h"

using namespace rules;

namespace {

constexpr TEventID kId = 3;

void CopyIn(const LocalTensor<float>& to, GM_ADDR x, uint32_t from = 0) {
    DataCopyPad(to, Global(x)[from], Bytes(kBytes), DataCopyPadExtParams<float>());
}

void CopyOut(GM_ADDR y, const LocalTensor<float>& from) { DataCopyPad(Global(y), from, Bytes(kBytes)); }

template <pipe_t src, pipe_t dst>
void Order() {
    TQueSync<src, dst> sync;
    sync.SetFlag(kId);
    sync.WaitFlag(kId);
}

}  // namespace

KERNEL(vector_before_copy_in) {
    (void)y;
    Bench bench;
    CopyIn(bench.Floats(), x);
    Muls(bench.Floats(), bench.Floats(), 2.0f, kCount);
}

KERNEL(copy_out_before_vector) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    CopyOut(y, bench.Floats());
}

KERNEL(copy_in_over_what_vector_reads) {
    (void)y;
    Bench bench(2 * kBytes);
    CopyIn(bench.Floats(), x);
    Order<PIPE_MTE2, PIPE_V>();
    Muls(bench.Floats()[kCount], bench.Floats(), 2.0f, kCount);
    PipeBarrier<PIPE_MTE2>();
    CopyIn(bench.Floats(), x);
}

KERNEL(vector_over_what_copy_out_reads) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    Order<PIPE_V, PIPE_MTE3>();
    CopyOut(y, bench.Floats());
    PipeBarrier<PIPE_V>();
    Duplicate(bench.Floats(), 2.0f, kCount);
}

LOCAL_KERNEL(vector_before_vector) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    Muls(bench.Floats(), bench.Floats(), 2.0f, kCount);
}

KERNEL(copy_in_twice) {
    (void)y;
    Bench bench;
    CopyIn(bench.Floats(), x);
    CopyIn(bench.Floats(), x);
}

KERNEL(copy_out_twice) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    Order<PIPE_V, PIPE_MTE3>();
    CopyOut(y, bench.Floats());
    CopyOut(y, bench.Floats());
}

LOCAL_KERNEL(scalar_before_vector) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    bench.Floats().GetValue(0);
}

LOCAL_KERNEL(vector_before_scalar) {
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    Order<PIPE_V, PIPE_S>();
    bench.Floats().SetValue(0, 2.0f);
    Muls(bench.Floats(), bench.Floats(), 2.0f, kCount);
}

// The buffer is free and may be filled again while V still reads it.
KERNEL(free_before_use) {
    (void)y;
    TPipe pipe;
    InQueue queue;
    Scratch scratch;
    pipe.InitBuffer(queue, 1, kBytes);
    pipe.InitBuffer(scratch, kBytes);
    LocalTensor<float> tensor = queue.AllocTensor<float>();
    CopyIn(tensor, x);
    queue.EnQue(tensor);
    tensor = queue.DeQue<float>();
    queue.FreeTensor(tensor);
    PipeBarrier<PIPE_V>();
    Muls(scratch.Get<float>(), tensor, 2.0f, kCount);
}

LOCAL_KERNEL(read_of_what_nobody_wrote) {
    Bench bench(2 * kBytes);
    Muls(bench.Floats()[kCount], bench.Floats(), 2.0f, kCount);
}

KERNEL(read_past_what_was_copied) {
    (void)y;
    Bench bench(2 * kBytes);
    DataCopyPad(bench.Floats(), Global(x), Bytes(kBytes / 2), DataCopyPadExtParams<float>());
    Order<PIPE_MTE2, PIPE_V>();
    Muls(bench.Floats()[kCount], bench.Floats(), 2.0f, kCount);
}

KERNEL(scalar_read_of_what_is_written) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    PipeBarrier<PIPE_ALL>();
    CopyOut(y, bench.Floats());
    PipeBarrier<PIPE_ALL>();
    Global(y).GetValue(0);
}

KERNEL(blocks_that_overlap) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y)[GetBlockIdx() * 7], bench.Floats(), Bytes(32));
}

KERNEL(block_that_reads_what_another_writes) {
    (void)x;
    Bench bench;
    CopyIn(bench.Floats(), y);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y)[GetBlockIdx() * 32], bench.Floats(), Bytes(128));
}

LOCAL_KERNEL(flag_set_twice) {
    TQueSync<PIPE_V, PIPE_MTE3> sync;
    sync.SetFlag(kId);
    sync.SetFlag(kId);
}

// The wait is behind a copy, and V does not know when that is done: MTE3 may not have taken the first flag yet.
KERNEL(flag_set_again_before_its_wait_is_reached) {
    (void)x;
    Bench bench;
    Duplicate(bench.Floats(), 1.0f, kCount);
    Order<PIPE_V, PIPE_MTE3>();
    CopyOut(y, bench.Floats());
    constexpr TEventID kOtherId = 4;
    TQueSync<PIPE_V, PIPE_MTE3> sync;
    for (int i = 0; i < 2; ++i) {
        sync.SetFlag(kOtherId);
        sync.WaitFlag(kOtherId);
    }
}

LOCAL_KERNEL(flag_left_behind) {
    TQueSync<PIPE_V, PIPE_MTE3> sync;
    sync.SetFlag(kId);
}

LOCAL_KERNEL(wait_for_ever) {
    TQueSync<PIPE_V, PIPE_MTE3> sync;
    sync.WaitFlag(kId);
}

LOCAL_KERNEL(scalar_waits_for_ever) {
    TQueSync<PIPE_V, PIPE_S> sync;
    sync.WaitFlag(kId);
}

LOCAL_KERNEL(flag_past_the_ids) {
    TQueSync<PIPE_V, PIPE_MTE3> sync;
    sync.SetFlag(8);
}

LOCAL_KERNEL(flag_of_a_queue) {
    TPipe pipe;
    InQueue queue;
    pipe.InitBuffer(queue, 1, kBytes);
    queue.EnQue(queue.AllocTensor<float>());
    TQueSync<PIPE_MTE2, PIPE_V> sync;
    sync.SetFlag(0);
}

LOCAL_KERNEL(event_ids_used_up) {
    TPipe pipe;
    for (int i = 0; i < 9; ++i) {
        pipe.AllocEventID<HardEvent::V_MTE3>();
    }
}

LOCAL_KERNEL(event_id_released_twice) {
    TPipe pipe;
    const TEventID id = pipe.AllocEventID<HardEvent::V_MTE3>();
    pipe.ReleaseEventID<HardEvent::V_MTE3>(id);
    pipe.ReleaseEventID<HardEvent::V_MTE3>(id);
}

// Correct: y = 2 * x + 1 at its first element, ordered by TQueSync alone.
KERNEL(ordered_by_que_sync) {
    Bench bench;
    CopyIn(bench.Floats(), x);
    Order<PIPE_MTE2, PIPE_V>();
    Muls(bench.Floats(), bench.Floats(), 2.0f, kCount);
    Order<PIPE_V, PIPE_S>();
    bench.Floats().SetValue(0, bench.Floats().GetValue(0) + 1.0f);
    Order<PIPE_S, PIPE_MTE3>();
    Order<PIPE_V, PIPE_MTE3>();
    CopyOut(y, bench.Floats());
}

// Correct: y = 2 * x, with one id that V sets twice; before the second set, MTE3 tells V that the first wait is over.
KERNEL(ordered_by_one_id_twice) {
    Bench bench;
    CopyIn(bench.Floats(), x);
    Order<PIPE_MTE2, PIPE_V>();
    for (int i = 0; i < 2; ++i) {
        Muls(bench.Floats(), bench.Floats(), i == 0 ? 2.0f : 1.0f, kCount);
        Order<PIPE_V, PIPE_MTE3>();
        CopyOut(y, bench.Floats());
        Order<PIPE_MTE3, PIPE_V>();
    }
}

// Correct: y = 2 * x by hardware events, with ids of the pipe.
KERNEL(ordered_by_hard_events) {
    Bench bench;
    const TEventID in = bench.pipe.AllocEventID<HardEvent::MTE2_V>();
    CopyIn(bench.Floats(), x);
    SetFlag<HardEvent::MTE2_V>(in);
    WaitFlag<HardEvent::MTE2_V>(in);
    bench.pipe.ReleaseEventID<HardEvent::MTE2_V>(in);
    Muls(bench.Floats(), bench.Floats(), 2.0f, kCount);
    const TEventID out = bench.pipe.FetchEventID(HardEvent::V_MTE3);
    SetFlag<HardEvent::V_MTE3>(out);
    WaitFlag<HardEvent::V_MTE3>(out);
    CopyOut(y, bench.Floats());
}
