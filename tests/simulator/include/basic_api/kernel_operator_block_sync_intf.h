// Flags and barriers between the pipes of one core.
// Models: include/basic_api/kernel_operator_block_sync_intf.h, impl/basic_api/kernel_tquesync_impl.h;
// 同步控制/核内同步.
#ifndef BASIC_API_KERNEL_OPERATOR_BLOCK_SYNC_INTF_H_
#define BASIC_API_KERNEL_OPERATOR_BLOCK_SYNC_INTF_H_

#include "basic_api/kernel_tpipe.h"
#include "basic_api/kernel_type.h"

namespace sim {

constexpr Pipe PipeOf(pipe_t pipe) {
    return pipe == PIPE_V      ? Pipe::kVector
           : pipe == PIPE_MTE2 ? Pipe::kMte2
           : pipe == PIPE_MTE3 ? Pipe::kMte3
                               : Pipe::kScalar;
}

constexpr bool IsVectorCorePipe(pipe_t pipe) {
    return pipe == PIPE_S || pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3;
}

struct PipePair {
    Pipe source;
    Pipe destination;
};

constexpr PipePair PairOf(AscendC::HardEvent event) {
    using AscendC::HardEvent;
    switch (event) {
        case HardEvent::MTE2_V:
            return {Pipe::kMte2, Pipe::kVector};
        case HardEvent::V_MTE2:
            return {Pipe::kVector, Pipe::kMte2};
        case HardEvent::MTE3_V:
            return {Pipe::kMte3, Pipe::kVector};
        case HardEvent::V_MTE3:
            return {Pipe::kVector, Pipe::kMte3};
        case HardEvent::MTE3_MTE2:
            return {Pipe::kMte3, Pipe::kMte2};
        case HardEvent::MTE2_MTE3:
            return {Pipe::kMte2, Pipe::kMte3};
        case HardEvent::S_V:
            return {Pipe::kScalar, Pipe::kVector};
        case HardEvent::V_S:
            return {Pipe::kVector, Pipe::kScalar};
        case HardEvent::S_MTE2:
            return {Pipe::kScalar, Pipe::kMte2};
        case HardEvent::MTE2_S:
            return {Pipe::kMte2, Pipe::kScalar};
        case HardEvent::S_MTE3:
            return {Pipe::kScalar, Pipe::kMte3};
        default:
            return {Pipe::kMte3, Pipe::kScalar};
    }
}

}  // namespace sim

namespace AscendC {

// SetFlag-WaitFlag(ISASI).md: ids are 0 to 7, set and wait come in pairs, and a second set before the wait is undefined
// (an error here). Not supported on Atlas 200I/500 A2, so refused on chip 310B.
template <HardEvent event>
void SetFlag(int32_t eventID) {
    constexpr sim::PipePair pair = sim::PairOf(event);
    sim::SetFlag(sim::FlagKind::kHardEvent, pair.source, pair.destination, eventID);
}

template <HardEvent event>
void WaitFlag(int32_t eventID) {
    constexpr sim::PipePair pair = sim::PairOf(event);
    sim::WaitFlag(sim::FlagKind::kHardEvent, pair.source, pair.destination, eventID);
}

// SetFlag-WaitFlag.md, TQueSync模板参数.md: the same on every product.
template <pipe_t src, pipe_t dst>
class TQueSync {
    static_assert(src != dst, "src and dst pipe cannot be the same");
    static_assert(sim::IsVectorCorePipe(src) && sim::IsVectorCorePipe(dst), "the simulator models S, V, MTE2 and MTE3");

public:
    void SetFlag(TEventID id) { sim::SetFlag(sim::FlagKind::kQueSync, sim::PipeOf(src), sim::PipeOf(dst), id); }
    void WaitFlag(TEventID id) { sim::WaitFlag(sim::FlagKind::kQueSync, sim::PipeOf(src), sim::PipeOf(dst), id); }
};

// PipeBarrier(ISASI).md: a later call in the pipe starts after all earlier ones have read and written. Not for PIPE_S.
// Stricter reading for PIPE_V: the compiler inserts these barriers by default, the simulator does not. So a vector call
// that uses the result of another needs a barrier between them.
template <pipe_t pipe>
void PipeBarrier() {
    static_assert(pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3 || pipe == PIPE_ALL,
                  "the simulator models the pipes V, MTE2 and MTE3; PIPE_S takes no barrier");
    if constexpr (pipe == PIPE_ALL) {
        sim::BarrierAll();
    } else {
        sim::Barrier(sim::PipeOf(pipe));
    }
}

// TPipe/AllocEventID.md, FetchEventID.md, ReleaseEventID.md: ids from the pool that queues use too. Not supported on
// Atlas 200I/500 A2.
template <HardEvent evt>
TEventID TPipe::AllocEventID() {
    return static_cast<TEventID>(sim::AllocEventId(sim::PairOf(evt).source, sim::PairOf(evt).destination));
}

template <HardEvent evt>
TEventID TPipe::FetchEventID() {
    return FetchEventID(evt);
}

inline TEventID TPipe::FetchEventID(HardEvent evt) {
    return static_cast<TEventID>(sim::FetchEventId(sim::PairOf(evt).source, sim::PairOf(evt).destination));
}

template <HardEvent evt>
void TPipe::ReleaseEventID(TEventID id) {
    sim::ReleaseEventId(sim::PairOf(evt).source, sim::PairOf(evt).destination, id);
}

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_OPERATOR_BLOCK_SYNC_INTF_H_
