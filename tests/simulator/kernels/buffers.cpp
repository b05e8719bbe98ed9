// Kernels that break the rules of UB and of queues.
#include "rules.h"

using namespace rules;

namespace {

// One input queue of one buffer.
struct OneIn {
    OneIn() { pipe.InitBuffer(queue, 1, kBytes); }
    TPipe pipe;
    InQueue queue;
};

}  // namespace

LOCAL_KERNEL(more_ub_than_the_platform_reports) {
    // 192 KiB, which 910B has but does not report.
    TPipe pipe;
    InQueue queue;
    pipe.InitBuffer(queue, 2, 98304);
}

LOCAL_KERNEL(buffer_of_no_bytes) {
    TPipe pipe;
    Scratch scratch;
    pipe.InitBuffer(scratch, 0);
}

LOCAL_KERNEL(other_length_than_configured) {
    static constexpr TQueConfig config = {false, false, false, kBytes, 1};
    TPipe pipe;
    TQue<TPosition::VECIN, 1, &config> queue;
    pipe.InitBuffer(queue, 1, 2 * kBytes);
}

LOCAL_KERNEL(too_many_buffers) {
    TPipe pipe;
    Scratch scratch[65];
    for (Scratch& one : scratch) {
        pipe.InitBuffer(one, 32);
    }
}

LOCAL_KERNEL(too_many_queue_buffers) {
    TPipe pipe;
    InQueue queues[5];
    for (InQueue& queue : queues) {
        pipe.InitBuffer(queue, 2, 32);
    }
}

LOCAL_KERNEL(two_pipes) {
    TPipe pipe;
    TPipe another;
}

LOCAL_KERNEL(queue_without_buffers) {
    TPipe pipe;
    InQueue queue;
    queue.AllocTensor<float>();
}

LOCAL_KERNEL(alloc_without_free) {
    OneIn one;
    one.queue.AllocTensor<float>();
    one.queue.AllocTensor<float>();
}

LOCAL_KERNEL(enque_past_the_depth) {
    TPipe pipe;
    InQueue queue;
    pipe.InitBuffer(queue, 2, kBytes);
    queue.EnQue(queue.AllocTensor<float>());
    queue.EnQue(queue.AllocTensor<float>());
}

LOCAL_KERNEL(enque_twice) {
    TPipe pipe;
    TQue<TPosition::VECIN, 2> queue;
    pipe.InitBuffer(queue, 2, kBytes);
    const LocalTensor<float> tensor = queue.AllocTensor<float>();
    queue.EnQue(tensor);
    queue.EnQue(tensor);
}

LOCAL_KERNEL(deque_from_an_empty_queue) {
    OneIn one;
    one.queue.DeQue<float>();
}

LOCAL_KERNEL(free_twice) {
    OneIn one;
    LocalTensor<float> tensor = one.queue.AllocTensor<float>();
    one.queue.FreeTensor(tensor);
    one.queue.FreeTensor(tensor);
}

LOCAL_KERNEL(free_in_the_queue) {
    OneIn one;
    LocalTensor<float> tensor = one.queue.AllocTensor<float>();
    one.queue.EnQue(tensor);
    one.queue.FreeTensor(tensor);
}

LOCAL_KERNEL(enque_of_another_buffer) {
    OneIn one;
    Scratch scratch;
    one.pipe.InitBuffer(scratch, kBytes);
    one.queue.EnQue(scratch.Get<float>());
}

LOCAL_KERNEL(end_without_enque) {
    OneIn one;
    one.queue.AllocTensor<float>();
}

LOCAL_KERNEL(end_without_deque) {
    OneIn one;
    one.queue.EnQue(one.queue.AllocTensor<float>());
}

LOCAL_KERNEL(end_without_free) {
    OneIn one;
    one.queue.EnQue(one.queue.AllocTensor<float>());
    one.queue.DeQue<float>();
}

// Correct: the queries of a queue.
KERNEL(count_of_a_queue) {
    (void)x;
    OneIn one;
    Scratch scratch;
    one.pipe.InitBuffer(scratch, kBytes);
    const LocalTensor<float> counts = scratch.Get<float>();
    int at = 0;
    const auto note = [&] {
        counts.SetValue(at++, one.queue.GetTensorCountInQue());
        counts.SetValue(at++, one.queue.HasIdleBuffer());
        counts.SetValue(at++, one.queue.VacantInQue());
        counts.SetValue(at++, one.queue.HasTensorInQue());
    };
    note();
    one.queue.EnQue(one.queue.AllocTensor<float>());
    note();
    LocalTensor<float> tensor = one.queue.DeQue<float>();
    note();
    one.queue.FreeTensor(tensor);
    PipeBarrier<PIPE_ALL>();
    DataCopyPad(Global(y), counts, Bytes(12 * sizeof(float)));
}
