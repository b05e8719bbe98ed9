// One simulated vector core: four pipes, the flags between them, and UB with its queues.
//
// The kernel's own code is pipe S and runs on the calling thread. Its calls for V, MTE2 and MTE3 go into the queues of
// those pipes. Each pipe runs its calls in order; the schedule chooses which pipe runs next, within the limits of the
// flags. Order is judged independently of the schedule: every call carries a vector clock (Lamport's happened-before),
// and two accesses of which neither knows the other to be finished are a race.
#ifndef SIMULATOR_CORE_H_
#define SIMULATOR_CORE_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "counters.h"
#include "global_memory.h"
#include "instruction.h"
#include "report.h"
#include "settings.h"
#include "simulator/device.h"
#include "unified_buffer.h"

namespace sim {

// State that all blocks of a launch share; constant while they run.
struct LaunchContext {
    Settings settings;
    std::vector<GlobalRange> tensors;
    int64_t blocks = 0;
    uint64_t tiling_key = 0;
    std::vector<unsigned char> tiling;
};

// Not thread-safe: one thread runs a core from Begin to Finish.
class Core {
public:
    // Starts a block. `launch` must outlive it.
    void Begin(const LaunchContext& launch, int64_t block);

    // Runs the remaining calls and checks the state at the end. Throws KernelError.
    void Finish();

    // Drops the block, in any state.
    void Abandon();

    const Counters& counters() const { return counters_; }
    BlockTraffic& traffic() { return traffic_; }

    // Returns the name of the current call: "block 3, pipe V, call 17 (Cast)".
    std::string Where() const;

    [[noreturn]] void Fail(Cause cause, const std::string& what) const;

    // The calls of device.h.
    const LaunchContext& launch() const { return *launch_; }
    int64_t block() const { return traffic_.block; }
    void OpenPipe();
    void DestroyPipe();
    void ClosePipe() noexcept;
    void CheckQueueConfig(uint32_t config_buffers, uint32_t config_bytes, uint32_t buffers, uint32_t bytes);
    int32_t InitQueue(UbPosition position, int32_t depth, uint32_t buffers, uint32_t bytes);
    LocalRange InitTBuf(UbPosition position, uint32_t bytes);
    LocalRange AllocTensor(int32_t queue);
    void EnQue(int32_t queue, const LocalRange& tensor);
    LocalRange DeQue(int32_t queue);
    void FreeTensor(int32_t queue, const LocalRange& tensor);
    int32_t TensorsInQueue(int32_t queue);
    bool HasIdleBuffer(int32_t queue);
    LocalRange Offset(const LocalRange& tensor, uint64_t offset_bytes);
    void Copy(const CopyCall& call, bool in);
    void Vector(const VectorCall& call);
    void SetFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id);
    void WaitFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id);
    int32_t AllocEventId(Pipe source, Pipe destination, const char* name);
    int32_t FetchEventId(Pipe source, Pipe destination);
    void ReleaseEventId(Pipe source, Pipe destination, int32_t id);
    void Barrier(Pipe pipe);
    void BarrierAll();
    void ReadLocal(const LocalRange& tensor, uint64_t offset_bytes, void* value, uint32_t bytes);
    void WriteLocal(const LocalRange& tensor, uint64_t offset_bytes, const void* value, uint32_t bytes);
    void ReadGlobal(uint64_t gm, void* value, uint32_t bytes);
    void RefuseOn310b(const char* name);

private:
    static constexpr int kEventIds = 8;

    // queues.cpp
    enum class BufferState : uint8_t { kFree, kAllocated, kQueued, kDequeued };
    struct Buffer {
        LocalRange range;
        UbPosition position;
        int32_t queue = -1;  // -1 for a TBuf
        BufferState state = BufferState::kFree;
        int32_t queued_event = -1;  // ids while the flag of EnQue or FreeTensor is set and not taken
        int32_t freed_event = -1;
    };
    struct Queue {
        UbPosition position;
        int32_t depth;
        int32_t first_buffer;
        int32_t buffers;
        int32_t cursor = 0;
        std::deque<int32_t> queued;  // buffers
        Pipe producer;
        Pipe consumer;
    };
    Queue& QueueAt(int32_t queue);
    Buffer& BufferOf(int32_t queue, const LocalRange& tensor, const char* call);
    LocalRange TakeUb(UbPosition position, uint32_t bytes, const char* call);
    std::string Describe(const Queue& queue) const;
    int32_t TakeEventId(Pipe source, Pipe destination, const char* call, bool by_queue);
    void GiveEventId(Pipe source, Pipe destination, int32_t id);

    // pipes.cpp
    struct Flag {
        bool set = false;
        Clock clock = {};             // what is known to be finished when it is set
        double time = 0;              // cycle at which it was set
        Clock reached = {};           // what had to be finished before the last wait took it: see PipeQueue
        int32_t program_balance = 0;  // sets minus waits, as the program wrote them
        bool taken = false;           // allocated by a queue or AllocEventID
        bool by_queue = false;
    };
    Flag& FlagAt(Pipe source, Pipe destination, int32_t id);
    void PostFlag(Pipe source, Pipe destination, int32_t id);
    void AwaitFlag(Pipe source, Pipe destination, int32_t id);
    void Raise(Pipe source, Pipe destination, int32_t id, const Clock& clock, double time);
    void Lower(Pipe source, Pipe destination, int32_t id);
    Instruction& Issue(Instruction::Kind kind, const char* name, Pipe pipe);
    void AfterIssue();
    bool StandsAtWait(Pipe pipe) const;
    bool StandsAtFlag(Pipe pipe) const;
    bool CanRun(Pipe pipe);
    void RunNext(Pipe pipe);
    bool Step();
    void DrainAll();
    std::string DescribeHang();
    size_t Pending() const;
    uint64_t NextRandom();

    // run.cpp
    void Run(Pipe pipe, const Instruction& instruction);
    void RunCopyIn(const Instruction& instruction);
    void RunCopyOut(const Instruction& instruction);
    void RunVector(const Instruction& instruction);
    void CheckRead(Pipe pipe, const LocalRange& range, uint64_t bytes);
    void CheckWrite(Pipe pipe, const LocalRange& range, uint64_t bytes);
    void FailRace(const UnifiedBuffer::Conflict& conflict, bool write, const LocalRange& range) const;
    void FailPoison(const LocalRange& range, uint64_t bytes, int64_t poison) const;
    void GuardedCopy(void* destination, const void* source, uint64_t bytes);
    std::string DescribeUb(const LocalRange& range) const;

    // calls.cpp
    LocalRange PartOf(const LocalRange& tensor, uint64_t offset_bytes) const;
    void CheckLocal(const LocalRange& range, uint64_t bytes, const char* operand) const;
    void CheckAligned(const LocalRange& range, const char* operand) const;
    void CheckCopyShape(const CopyCall& call, bool in) const;
    void CheckCopyPosition(const CopyCall& call, bool in) const;
    void CheckVectorOverlap(const VectorCall& call, uint64_t dst_bytes, uint64_t src_bytes) const;

    struct Current {
        Pipe pipe = Pipe::kScalar;
        uint32_t number = 0;
        const char* name = nullptr;
        uint64_t order = 0;
    };

    struct PipeQueue {
        std::vector<Instruction> waiting;
        size_t next = 0;
        uint32_t issued = 0;             // number of the last call
        Clock clock = {};                // what the pipe knows to be finished
        Clock reached = {};              // the last call that is no flag, and the setters of the flags taken since
        double time = 0;                 // cycle at which the last call ended
        std::vector<const char*> names;  // of the last kNames calls, by number
    };
    static constexpr uint32_t kNames = 512;
    const char* NameOfCall(Pipe pipe, uint32_t number) const;

    const LaunchContext* launch_ = nullptr;
    PipeQueue pipes_[kPipes];
    Flag flags_[kPipes][kPipes][kEventIds];
    UnifiedBuffer ub_;
    uint32_t ub_used_ = 0;
    bool pipe_open_ = false;
    std::vector<Buffer> buffers_;
    std::vector<Queue> queues_;
    Counters counters_;
    BlockTraffic traffic_;
    Current current_;
    uint64_t issued_ = 0;  // calls of all pipes
    uint64_t random_ = 0;
};

// Returns the core that the calling thread runs; throws if it runs none.
Core& CurrentCore();

// Makes `core` the core that the calling thread runs; nullptr for none.
void SetCurrentCore(Core* core);

// Returns the name of `pipe`: "S", "V", "MTE2", "MTE3".
const char* NameOf(Pipe pipe);
const char* NameOf(UbPosition position);

}  // namespace sim

#endif  // SIMULATOR_CORE_H_
