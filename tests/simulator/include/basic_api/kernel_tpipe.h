// The pipe object, queues and scratch buffers.
// Models: include/basic_api/kernel_tpipe.h, impl/basic_api/kernel_tquebind_impl.h; 资源管理/TPipe, TQue, TBuf.
#ifndef BASIC_API_KERNEL_TPIPE_H_
#define BASIC_API_KERNEL_TPIPE_H_

#include <cstdint>
#include <type_traits>

#include "basic_api/kernel_tensor.h"
#include "basic_api/kernel_type.h"

namespace sim {

constexpr UbPosition PositionOf(AscendC::TPosition position) {
    return position == AscendC::TPosition::VECIN    ? UbPosition::kIn
           : position == AscendC::TPosition::VECOUT ? UbPosition::kOut
                                                    : UbPosition::kCalc;
}

}  // namespace sim

namespace AscendC {

class TPipe;

// TQue简介.md: arguments of InitBuffer that are known when the kernel is compiled; 0 if InitBuffer alone decides.
struct TQueConfig {
    bool nd2nz = false;
    bool nz2nd = false;
    bool scmBlockGroup = false;
    uint32_t bufferLen = 0;  // bytes
    uint32_t bufferNumber = 0;
    uint32_t consumerSize = 0;
    TPosition consumer[8] = {};
    bool enableStaticEvtId = false;
    bool enableLoopQueue = false;
};

// A ring of buffers that carries tensors, and the order of their use, from one pipe to the next. For VECIN, EnQue sets
// MTE2_V and DeQue waits for it; FreeTensor sets V_MTE2, and the AllocTensor that reuses the buffer waits for it. For
// VECOUT the events are V_MTE3 and MTE3_V.
//
// `depth` is how many EnQue may come in a row (TQue简介.md), not the number of buffers. Not modelled: depth 0 (in-place
// tensors), other positions, and the format conversions of `mask`, which may also be the address of a TQueConfig.
template <TPosition pos, int32_t depth, auto mask = 0>
class TQue {
    static_assert(pos == TPosition::VECIN || pos == TPosition::VECOUT, "the simulator models queues VECIN and VECOUT");
    static_assert(depth >= 1, "the simulator does not model the in-place queues of depth 0");

public:
    TQue() = default;

    // Allocates the next buffer. If none is free, a device waits for ever; here it is an error.
    template <typename T>
    LocalTensor<T> AllocTensor() {
        return LocalTensor<T>(sim::AllocTensor(queue_));
    }

    template <typename T>
    bool EnQue(const LocalTensor<T>& tensor) {
        sim::EnQue(queue_, tensor.Range());
        return true;
    }

    template <typename T>
    LocalTensor<T> DeQue() {
        return LocalTensor<T>(sim::DeQue(queue_));
    }

    template <typename T>
    void FreeTensor(LocalTensor<T>& tensor) {
        sim::FreeTensor(queue_, tensor.Range());
    }

    bool VacantInQue() { return sim::TensorsInQueue(queue_) < depth; }
    bool HasTensorInQue() { return sim::TensorsInQueue(queue_) > 0; }
    int32_t GetTensorCountInQue() { return sim::TensorsInQueue(queue_); }
    bool HasIdleBuffer() { return sim::HasIdleBuffer(queue_); }

private:
    friend class TPipe;
    int32_t queue_ = -1;
};

// Scratch memory for one pipe; it orders nothing.
template <TPosition pos = TPosition::LCM>
class TBuf {
    static_assert(pos == TPosition::VECIN || pos == TPosition::VECOUT || pos == TPosition::VECCALC,
                  "the simulator models buffers in UB");

public:
    TBuf() = default;

    template <typename T>
    LocalTensor<T> Get() {
        return LocalTensor<T>(range_);
    }

    template <typename T>
    LocalTensor<T> Get(uint32_t len) {  // elements
        LocalTensor<T> tensor(range_);
        tensor.SetSize(len);
        return tensor;
    }

    // `bufOffset` in bytes, a multiple of 32 (TBuf/GetWithOffset.md).
    template <typename T>
    LocalTensor<T> GetWithOffset(uint32_t size, uint32_t bufOffset) {
        LocalTensor<T> tensor(sim::Offset(range_, bufOffset));
        tensor.SetSize(size);
        return tensor;
    }

private:
    friend class TPipe;
    sim::LocalRange range_;
};

// Divides UB among queues and buffers. At most one exists at a time (TPipe构造函数.md).
// Limits (TPipe/InitBuffer.md, TQue简介.md): at most 64 buffers, at most 8 of queues at one position, lengths rounded
// up to 32 bytes, no more bytes than the UB that the platform reports. InitBuffer must agree with the TQueConfig.
class TPipe {
public:
    TPipe() { sim::OpenPipe(); }
    ~TPipe() { sim::ClosePipe(); }
    TPipe(const TPipe&) = delete;
    TPipe& operator=(const TPipe&) = delete;

    template <TPosition pos, int32_t depth, auto mask>
    bool InitBuffer(TQue<pos, depth, mask>& que, uint8_t num, uint32_t len) {
        if constexpr (std::is_pointer_v<decltype(mask)>) {
            sim::CheckQueueConfig(mask->bufferNumber, mask->bufferLen, num, len);
        }
        que.queue_ = sim::InitQueue(sim::PositionOf(pos), depth, num, len);
        return true;
    }

    template <TPosition pos>
    bool InitBuffer(TBuf<pos>& buf, uint32_t len) {
        buf.range_ = sim::InitTBuf(sim::PositionOf(pos), len);
        return true;
    }

    void Destroy() { sim::DestroyPipe(); }

    template <HardEvent evt>
    TEventID AllocEventID();
    template <HardEvent evt>
    TEventID FetchEventID();
    TEventID FetchEventID(HardEvent evt);
    template <HardEvent evt>
    void ReleaseEventID(TEventID id);
};

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_TPIPE_H_
