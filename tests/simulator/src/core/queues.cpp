// UB, queues and their tensors.
// Source of the order of events: asc-devkit impl/basic_api/kernel_tquebind_impl.h, kernel_tpipe_impl.h.
#include <algorithm>

#include "core.h"

namespace sim {
namespace {

constexpr size_t kMostBuffers = 64;        // InitBuffer.md
constexpr uint32_t kMostQueueBuffers = 8;  // at one position, TQue简介.md

uint32_t RoundUpToBlock(uint32_t bytes) { return (bytes + kUbBlock - 1) / kUbBlock * kUbBlock; }

}  // namespace

void Core::OpenPipe() {
    current_ = {Pipe::kScalar, 0, "TPipe", 0};
    if (pipe_open_) {
        Fail(Cause::kQueue, "a second TPipe while the first lives; one may exist at a time");
    }
    DrainAll();
    pipe_open_ = true;
    ub_used_ = 0;
    buffers_.clear();
    queues_.clear();
}

void Core::DestroyPipe() {
    current_ = {Pipe::kScalar, 0, "TPipe::Destroy", 0};
    BarrierAll();
    pipe_open_ = false;
}

void Core::ClosePipe() noexcept { pipe_open_ = false; }

LocalRange Core::TakeUb(UbPosition position, uint32_t bytes, const char* call) {
    const Chip& chip = *launch_->settings.chip;
    if (!pipe_open_) {
        Fail(Cause::kQueue, Format("%s without a TPipe", call));
    }
    if (bytes == 0) {
        Fail(Cause::kArgument, Format("%s of 0 bytes", call));
    }
    if (buffers_.size() == kMostBuffers) {
        Fail(Cause::kQueue, Format("more than %zu buffers", kMostBuffers));
    }
    if (bytes > chip.ub_bytes || ub_used_ + uint64_t{RoundUpToBlock(bytes)} > chip.ub_bytes) {
        Fail(Cause::kUnifiedBuffer,
             Format("%s needs %u bytes more than the %u in use, together more than the %llu of UB that %s has", call,
                    bytes, ub_used_, static_cast<unsigned long long>(chip.ub_bytes), chip.name));
    }
    Buffer buffer;
    buffer.position = position;
    buffer.range = {ub_used_, RoundUpToBlock(bytes), static_cast<int32_t>(buffers_.size())};
    ub_.Reset(buffer.range.address, buffer.range.bytes);
    ub_used_ += buffer.range.bytes;
    counters_.ub_bytes = std::max<uint64_t>(counters_.ub_bytes, ub_used_);
    buffers_.push_back(buffer);
    return buffer.range;
}

void Core::CheckQueueConfig(uint32_t config_buffers, uint32_t config_bytes, uint32_t buffers, uint32_t bytes) {
    current_ = {Pipe::kScalar, 0, "InitBuffer", 0};
    if (config_buffers != 0 && config_buffers != buffers) {
        Fail(Cause::kArgument, Format("InitBuffer of %u buffers; TQueConfig says %u", buffers, config_buffers));
    }
    if (config_bytes != 0 && config_bytes != bytes) {
        Fail(Cause::kArgument, Format("InitBuffer of %u bytes; TQueConfig says %u", bytes, config_bytes));
    }
}

int32_t Core::InitQueue(UbPosition position, int32_t depth, uint32_t count, uint32_t bytes) {
    current_ = {Pipe::kScalar, 0, "InitBuffer", 0};
    uint32_t at_position = count;
    for (const Queue& queue : queues_) {
        at_position += queue.position == position ? queue.buffers : 0;
    }
    if (count == 0) {
        Fail(Cause::kArgument, "InitBuffer of 0 buffers");
    }
    if (at_position > kMostQueueBuffers) {
        Fail(Cause::kQueue, Format("%u buffers in the queues at one position; there are events for %u", at_position,
                                   kMostQueueBuffers));
    }
    Queue queue;
    queue.position = position;
    queue.depth = depth;
    queue.first_buffer = static_cast<int32_t>(buffers_.size());
    queue.buffers = static_cast<int32_t>(count);
    queue.producer = position == UbPosition::kIn ? Pipe::kMte2 : Pipe::kVector;
    queue.consumer = position == UbPosition::kIn ? Pipe::kVector : Pipe::kMte3;
    for (uint32_t i = 0; i < count; ++i) {
        TakeUb(position, bytes, "InitBuffer");
        buffers_.back().queue = static_cast<int32_t>(queues_.size());
    }
    queues_.push_back(queue);
    return static_cast<int32_t>(queues_.size()) - 1;
}

LocalRange Core::InitTBuf(UbPosition position, uint32_t bytes) {
    current_ = {Pipe::kScalar, 0, "InitBuffer", 0};
    return TakeUb(position, bytes, "InitBuffer");
}

Core::Queue& Core::QueueAt(int32_t queue) {
    if (queue < 0 || queue >= static_cast<int32_t>(queues_.size())) {
        Fail(Cause::kQueue, Format("%s on a queue that InitBuffer never saw", current_.name));
    }
    return queues_[queue];
}

std::string Core::Describe(const Queue& queue) const {
    return Format("queue %d (%s, depth %d, %d x %u bytes)", static_cast<int>(&queue - queues_.data()),
                  NameOf(queue.position), queue.depth, queue.buffers, buffers_[queue.first_buffer].range.bytes);
}

Core::Buffer& Core::BufferOf(int32_t queue, const LocalRange& tensor, const char* call) {
    const Queue& of = QueueAt(queue);
    if (tensor.buffer < of.first_buffer || tensor.buffer >= of.first_buffer + of.buffers) {
        Fail(Cause::kQueue, Format("%s on %s with a tensor of another buffer", call, Describe(of).c_str()));
    }
    return buffers_[tensor.buffer];
}

int32_t Core::TakeEventId(Pipe source, Pipe destination, const char* call, bool by_queue) {
    const int32_t id = FetchEventId(source, destination);
    if (id < 0) {
        Fail(Cause::kFlag, Format("%s finds none of the %d event ids from %s to %s free", call, kEventIds,
                                  NameOf(source), NameOf(destination)));
    }
    Flag& flag = FlagAt(source, destination, id);
    flag.taken = true;
    flag.by_queue = by_queue;
    return id;
}

void Core::GiveEventId(Pipe source, Pipe destination, int32_t id) {
    Flag& flag = FlagAt(source, destination, id);
    flag.taken = false;
    flag.by_queue = false;
}

LocalRange Core::AllocTensor(int32_t index) {
    current_ = {Pipe::kScalar, 0, "AllocTensor", 0};
    Queue& queue = QueueAt(index);
    for (int32_t tried = 0; tried < queue.buffers; ++tried) {
        Buffer& buffer = buffers_[queue.first_buffer + queue.cursor];
        queue.cursor = (queue.cursor + 1) % queue.buffers;
        if (buffer.state != BufferState::kFree) {
            continue;
        }
        buffer.state = BufferState::kAllocated;
        if (buffer.freed_event >= 0) {
            AwaitFlag(queue.consumer, queue.producer, buffer.freed_event);
            GiveEventId(queue.consumer, queue.producer, buffer.freed_event);
            buffer.freed_event = -1;
        }
        return buffer.range;
    }
    Fail(Cause::kQueue, Format("AllocTensor finds no free buffer in %s: on a device it never returns. FreeTensor "
                               "forgotten, or fewer buffers than tensors in use at a time",
                               Describe(queue).c_str()));
}

void Core::EnQue(int32_t index, const LocalRange& tensor) {
    current_ = {Pipe::kScalar, 0, "EnQue", 0};
    Buffer& buffer = BufferOf(index, tensor, "EnQue");
    Queue& queue = queues_[index];
    if (buffer.state != BufferState::kAllocated && buffer.state != BufferState::kDequeued) {
        Fail(Cause::kQueue, Format("EnQue on %s of a tensor that is %s", Describe(queue).c_str(),
                                   buffer.state == BufferState::kFree ? "free" : "in the queue already"));
    }
    if (static_cast<int32_t>(queue.queued.size()) == queue.depth) {
        Fail(Cause::kQueue, Format("EnQue number %d in a row on %s: the depth is how many it takes", queue.depth + 1,
                                   Describe(queue).c_str()));
    }
    buffer.queued_event = TakeEventId(queue.producer, queue.consumer, "EnQue", true);
    PostFlag(queue.producer, queue.consumer, buffer.queued_event);
    buffer.state = BufferState::kQueued;
    queue.queued.push_back(tensor.buffer);
    counters_.tiles += queue.position == UbPosition::kOut ? 1 : 0;
}

LocalRange Core::DeQue(int32_t index) {
    current_ = {Pipe::kScalar, 0, "DeQue", 0};
    Queue& queue = QueueAt(index);
    if (queue.queued.empty()) {
        Fail(Cause::kQueue, Format("DeQue on %s, which is empty", Describe(queue).c_str()));
    }
    Buffer& buffer = buffers_[queue.queued.front()];
    queue.queued.pop_front();
    AwaitFlag(queue.producer, queue.consumer, buffer.queued_event);
    GiveEventId(queue.producer, queue.consumer, buffer.queued_event);
    buffer.queued_event = -1;
    buffer.state = BufferState::kDequeued;
    return buffer.range;
}

void Core::FreeTensor(int32_t index, const LocalRange& tensor) {
    current_ = {Pipe::kScalar, 0, "FreeTensor", 0};
    Buffer& buffer = BufferOf(index, tensor, "FreeTensor");
    Queue& queue = queues_[index];
    if (buffer.state == BufferState::kFree || buffer.state == BufferState::kQueued) {
        Fail(Cause::kQueue, Format("FreeTensor on %s of a tensor that is %s", Describe(queue).c_str(),
                                   buffer.state == BufferState::kFree ? "free already" : "still in the queue"));
    }
    Instruction& poison = Issue(Instruction::Kind::kFree, "FreeTensor", queue.consumer);
    poison.dst = buffer.range;
    AfterIssue();
    buffer.freed_event = TakeEventId(queue.consumer, queue.producer, "FreeTensor", true);
    PostFlag(queue.consumer, queue.producer, buffer.freed_event);
    buffer.state = BufferState::kFree;
}

int32_t Core::TensorsInQueue(int32_t index) {
    current_ = {Pipe::kScalar, 0, "GetTensorCountInQue", 0};
    return static_cast<int32_t>(QueueAt(index).queued.size());
}

bool Core::HasIdleBuffer(int32_t index) {
    current_ = {Pipe::kScalar, 0, "HasIdleBuffer", 0};
    const Queue& queue = QueueAt(index);
    return std::any_of(buffers_.begin() + queue.first_buffer, buffers_.begin() + queue.first_buffer + queue.buffers,
                       [](const Buffer& buffer) { return buffer.state == BufferState::kFree; });
}

void Core::Finish() {
    DrainAll();
    current_ = {Pipe::kScalar, 0, "the end of the kernel", 0};
    for (const Buffer& buffer : buffers_) {
        if (buffer.queue < 0 || buffer.state == BufferState::kFree) {
            continue;
        }
        const char* state = buffer.state == BufferState::kQueued      ? "in the queue, DeQue forgotten"
                            : buffer.state == BufferState::kAllocated ? "allocated and never enqueued"
                                                                      : "not freed, FreeTensor forgotten";
        Fail(Cause::kQueue, Format("a tensor of %s is %s", Describe(queues_[buffer.queue]).c_str(), state));
    }
    for (Buffer& buffer : buffers_) {
        if (buffer.freed_event >= 0) {  // TPipe takes these flags when it is destroyed
            Queue& queue = queues_[buffer.queue];
            FlagAt(queue.consumer, queue.producer, buffer.freed_event).set = false;
        }
    }
    for (int source = 0; source < kPipes; ++source) {
        for (int destination = 0; destination < kPipes; ++destination) {
            for (int id = 0; id < kEventIds; ++id) {
                if (flags_[source][destination][id].set) {
                    Fail(Cause::kFlag,
                         Format("flag %d from %s to %s is set and nothing waited for it; it would be left to the next "
                                "kernel",
                                id, NameOf(static_cast<Pipe>(source)), NameOf(static_cast<Pipe>(destination))));
                }
            }
        }
    }
}

}  // namespace sim
