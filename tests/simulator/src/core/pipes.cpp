// Flags, and the choice of the next call to run.
#include <algorithm>

#include "core.h"

namespace sim {
namespace {

// From the end of the data flow to its beginning.
constexpr Pipe kDownstreamFirst[] = {Pipe::kMte3, Pipe::kVector, Pipe::kMte2};

// A device has room for a few dozen calls a pipe; more room makes the schedules more varied.
constexpr size_t kMostPending = 1 << 16;

constexpr int kMostRandomSteps = 8;  // after each call

// Flags, and the marker of FreeTensor, which is no call on a device.
bool TakesNoTime(Instruction::Kind kind) {
    return kind == Instruction::Kind::kSetFlag || kind == Instruction::Kind::kWaitFlag ||
           kind == Instruction::Kind::kFree;
}

}  // namespace

Core::Flag& Core::FlagAt(Pipe source, Pipe destination, int32_t id) {
    return flags_[static_cast<int>(source)][static_cast<int>(destination)][id];
}

void Core::SetFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id) {
    current_ = {source, 0, "SetFlag", 0};
    if (kind == FlagKind::kHardEvent) {
        RefuseOn310b("SetFlag<HardEvent>: use TQueSync");
    }
    if (id < 0 || id >= kEventIds) {
        Fail(Cause::kArgument, Format("SetFlag of event id %d; there are ids 0 to %d", id, kEventIds - 1));
    }
    Flag& flag = FlagAt(source, destination, id);
    if (flag.by_queue) {
        Fail(Cause::kFlag, Format("SetFlag of id %d from %s to %s, which a queue uses; AllocEventID gives a free one",
                                  id, NameOf(source), NameOf(destination)));
    }
    ++flag.program_balance;
    PostFlag(source, destination, id);
}

void Core::WaitFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id) {
    current_ = {destination, 0, "WaitFlag", 0};
    if (kind == FlagKind::kHardEvent) {
        RefuseOn310b("WaitFlag<HardEvent>: use TQueSync");
    }
    if (id < 0 || id >= kEventIds) {
        Fail(Cause::kArgument, Format("WaitFlag of event id %d; there are ids 0 to %d", id, kEventIds - 1));
    }
    --FlagAt(source, destination, id).program_balance;
    AwaitFlag(source, destination, id);
}

int32_t Core::FetchEventId(Pipe source, Pipe destination) {
    for (int32_t id = 0; id < kEventIds; ++id) {
        const Flag& flag = FlagAt(source, destination, id);
        if (!flag.taken && flag.program_balance == 0) {
            return id;
        }
    }
    return -1;
}

int32_t Core::AllocEventId(Pipe source, Pipe destination, const char* name) {
    current_ = {Pipe::kScalar, 0, name, 0};
    RefuseOn310b(name);
    return TakeEventId(source, destination, name, false);
}

void Core::ReleaseEventId(Pipe source, Pipe destination, int32_t id) {
    current_ = {Pipe::kScalar, 0, "ReleaseEventID", 0};
    if (id < 0 || id >= kEventIds || !FlagAt(source, destination, id).taken) {
        Fail(Cause::kFlag, Format("ReleaseEventID of id %d, which AllocEventID did not give", id));
    }
    GiveEventId(source, destination, id);
}

void Core::PostFlag(Pipe source, Pipe destination, int32_t id) {
    if (source == Pipe::kScalar) {
        PipeQueue& scalar = pipes_[0];
        Clock clock = scalar.clock;
        clock[0] = scalar.issued;
        Raise(source, destination, id, clock, scalar.time);
        return;
    }
    Instruction& instruction = Issue(Instruction::Kind::kSetFlag, "SetFlag", source);
    instruction.peer = destination;
    instruction.id = id;
    AfterIssue();
}

void Core::AwaitFlag(Pipe source, Pipe destination, int32_t id) {
    if (destination != Pipe::kScalar) {
        Instruction& instruction = Issue(Instruction::Kind::kWaitFlag, "WaitFlag", destination);
        instruction.peer = source;
        instruction.id = id;
        AfterIssue();
        return;
    }
    while (!FlagAt(source, destination, id).set) {
        if (!Step()) {
            current_ = {Pipe::kScalar, 0, "WaitFlag", 0};
            Fail(Cause::kHang, Format("pipe S waits for ever for flag %d from %s", id, NameOf(source)));
        }
    }
    Lower(source, destination, id);
}

// A flag is one bit. Setting and taking a flag takes a pipe no time: after its last other call it goes on to its next
// wait at once, and takes the flag as soon as it is set. So a second set is correct if the pipe must be at that wait by
// then in every schedule: if the last call before the wait is known to be finished.
void Core::Raise(Pipe source, Pipe destination, int32_t id, const Clock& clock, double time) {
    Flag& flag = FlagAt(source, destination, id);
    const Current setting = current_;
    while (flag.set && StandsAtFlag(destination) && CanRun(destination)) {
        RunNext(destination);
    }
    current_ = setting;
    if (flag.set || !Covers(clock, flag.reached)) {
        Fail(Cause::kFlag, Format("SetFlag of id %d from %s to %s a second time before its WaitFlag: nothing makes %s "
                                  "wait until %s has taken the first; undefined on a device",
                                  id, NameOf(source), NameOf(destination), NameOf(source), NameOf(destination)));
    }
    flag.set = true;
    flag.clock = clock;
    flag.time = time;
}

void Core::Lower(Pipe source, Pipe destination, int32_t id) {
    Flag& flag = FlagAt(source, destination, id);
    PipeQueue& queue = pipes_[static_cast<int>(destination)];
    Join(&queue.clock, flag.clock);
    queue.time = std::max(queue.time, flag.time);
    flag.set = false;
    if (source != Pipe::kScalar) {  // S runs in the order of the program, so it is never late
        uint32_t& reached = queue.reached[static_cast<int>(source)];
        reached = std::max(reached, flag.clock[static_cast<int>(source)]);
    }
    flag.reached = queue.reached;
}

void Core::Barrier(Pipe pipe) {
    Issue(Instruction::Kind::kBarrier, "PipeBarrier", pipe);
    AfterIssue();
}

void Core::BarrierAll() {
    DrainAll();
    // Everything is finished, and S knows it.
    for (int pipe = 1; pipe < kPipes; ++pipe) {
        pipes_[0].clock[pipe] = pipes_[pipe].issued;
        pipes_[0].time = std::max(pipes_[0].time, pipes_[pipe].time);
    }
    pipes_[0].clock[0] = pipes_[0].issued;
    for (int pipe = 1; pipe < kPipes; ++pipe) {
        pipes_[pipe].clock = pipes_[0].clock;
    }
}

Instruction& Core::Issue(Instruction::Kind kind, const char* name, Pipe pipe) {
    PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    if (queue.next == queue.waiting.size()) {
        queue.waiting.clear();
        queue.next = 0;
    } else if (queue.next > kMostPending) {
        queue.waiting.erase(queue.waiting.begin(), queue.waiting.begin() + static_cast<ptrdiff_t>(queue.next));
        queue.next = 0;
    }
    queue.waiting.emplace_back();
    Instruction& instruction = queue.waiting.back();
    instruction.kind = kind;
    instruction.name = name;
    instruction.number = ++queue.issued;
    instruction.order = ++issued_;
    // S issues in order, so a call knows everything that S knew, except that a store of S itself has landed.
    instruction.issued = pipes_[0].clock;
    instruction.issued[0] = 0;
    instruction.issued_at = pipes_[0].time;
    instruction.cycles = 0;
    queue.names[instruction.number % kNames] = name;
    return instruction;
}

void Core::AfterIssue() {
    switch (launch_->settings.schedule) {
        case Schedule::kEager:
            while (Step()) {
            }
            return;
        case Schedule::kRandom:
            for (uint64_t steps = NextRandom() % (kMostRandomSteps + 1); steps > 0 && Step(); --steps) {
            }
            break;
        case Schedule::kLazy:
            break;
    }
    while (Pending() > kMostPending && Step()) {
    }
}

size_t Core::Pending() const {
    size_t pending = 0;
    for (const PipeQueue& queue : pipes_) {
        pending += queue.waiting.size() - queue.next;
    }
    return pending;
}

bool Core::StandsAtWait(Pipe pipe) const {
    const PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    return queue.next < queue.waiting.size() && queue.waiting[queue.next].kind == Instruction::Kind::kWaitFlag;
}

bool Core::StandsAtFlag(Pipe pipe) const {
    const PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    return queue.next < queue.waiting.size() && TakesNoTime(queue.waiting[queue.next].kind);
}

bool Core::CanRun(Pipe pipe) {
    const PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    if (queue.next == queue.waiting.size()) {
        return false;
    }
    const Instruction& instruction = queue.waiting[queue.next];
    return !StandsAtWait(pipe) || FlagAt(instruction.peer, pipe, instruction.id).set;
}

bool Core::Step() {
    Pipe able[kPipes];
    int count = 0;
    for (const Pipe pipe : kDownstreamFirst) {
        if (CanRun(pipe)) {
            able[count++] = pipe;
        }
    }
    if (count == 0) {
        return false;
    }
    RunNext(launch_->settings.schedule == Schedule::kRandom ? able[NextRandom() % count] : able[0]);
    return true;
}

void Core::RunNext(Pipe pipe) {
    PipeQueue& queue = pipes_[static_cast<int>(pipe)];
    const Instruction& instruction = queue.waiting[queue.next++];
    current_ = {pipe, instruction.number, instruction.name, instruction.order};
    Join(&queue.clock, instruction.issued);
    queue.time = std::max(queue.time, instruction.issued_at) + instruction.cycles;
    counters_.busy_cycles[static_cast<int>(pipe)] += instruction.cycles;
    counters_.cycles = std::max(counters_.cycles, queue.time);
    switch (instruction.kind) {
        case Instruction::Kind::kSetFlag: {
            Clock clock = queue.clock;
            clock[static_cast<int>(pipe)] = instruction.number;
            Raise(pipe, instruction.peer, instruction.id, clock, queue.time);
            break;
        }
        case Instruction::Kind::kWaitFlag:
            Lower(instruction.peer, pipe, instruction.id);
            return;
        case Instruction::Kind::kBarrier:
            queue.clock[static_cast<int>(pipe)] = instruction.number;
            break;
        default:
            Run(pipe, instruction);
    }
    if (!TakesNoTime(instruction.kind)) {
        queue.reached = {};
        queue.reached[static_cast<int>(pipe)] = instruction.number;
    }
}

void Core::DrainAll() {
    while (Step()) {
    }
    if (Pending() > 0) {
        Fail(Cause::kHang, DescribeHang());
    }
}

std::string Core::DescribeHang() {
    std::string text = "no pipe can go on:";
    for (const Pipe pipe : kDownstreamFirst) {
        const PipeQueue& queue = pipes_[static_cast<int>(pipe)];
        if (queue.next < queue.waiting.size()) {
            const Instruction& instruction = queue.waiting[queue.next];
            text += Format(" %s waits for flag %d from %s, which is never set;", NameOf(pipe), instruction.id,
                           NameOf(instruction.peer));
        }
    }
    text.back() = '.';
    return text;
}

uint64_t Core::NextRandom() {
    // SplitMix64 (Steele, Lea, Flood, 2014).
    uint64_t z = (random_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

}  // namespace sim
