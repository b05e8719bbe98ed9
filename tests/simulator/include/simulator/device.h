// The interface between the stand-ins of the Ascend C headers and the simulated vector core of the calling thread.
//
// Every function here is one call of a kernel. A call that breaks a rule throws: the launch ends, and its report names
// block, pipe, call and cause. None may be called outside a launch.
#ifndef SIMULATOR_DEVICE_H_
#define SIMULATOR_DEVICE_H_

#include <cstdint>

#include "simulator/element.h"

namespace sim {

enum class Pipe : uint8_t { kScalar, kVector, kMte2, kMte3 };
constexpr int kPipes = 4;

// The range of UB of a LocalTensor. `buffer` is the buffer of InitBuffer that contains it.
struct LocalRange {
    uint32_t address = 0;
    uint32_t bytes = 0;
    int32_t buffer = -1;
};

// Position of a buffer: decides which pipes a queue orders, and which copies take it. Queues have no kCalc.
enum class UbPosition : uint8_t { kIn, kOut, kCalc };

int64_t BlockIndex();
int64_t BlockCount();

// TPipe.
void OpenPipe();
void DestroyPipe();         // with a barrier on all pipes
void ClosePipe() noexcept;  // at the end of the object's life
// Throws unless `buffers` and `bytes` agree with a TQueConfig, whose 0 allows any value.
void CheckQueueConfig(uint32_t config_buffers, uint32_t config_bytes, uint32_t buffers, uint32_t bytes);
int32_t InitQueue(UbPosition position, int32_t depth, uint32_t buffers, uint32_t bytes);
LocalRange InitTBuf(UbPosition position, uint32_t bytes);

// TQue. `queue` is the result of InitQueue.
LocalRange AllocTensor(int32_t queue);
void EnQue(int32_t queue, const LocalRange& tensor);
LocalRange DeQue(int32_t queue);
void FreeTensor(int32_t queue, const LocalRange& tensor);
int32_t TensorsInQueue(int32_t queue);
bool HasIdleBuffer(int32_t queue);

// Returns the range of `tensor` from `offset_bytes` on; throws if that lies outside.
LocalRange Offset(const LocalRange& tensor, uint64_t offset_bytes);

// One copy between global memory and UB: `blocks` runs of `block_bytes`. Gaps are in bytes, from the end of one run to
// the begin of the next; in UB every run begins at a multiple of 32 bytes.
struct CopyShape {
    uint64_t blocks = 1;
    uint64_t block_bytes = 0;
    uint64_t gm_gap_bytes = 0;
    uint64_t ub_gap_bytes = 0;
    uint32_t left_pad_bytes = 0;
    uint32_t right_pad_bytes = 0;
    bool pad_value_given = false;
    uint64_t pad_value = 0;
};

struct CopyCall {
    const char* name;
    Element element;
    uint64_t gm;  // address
    LocalRange local;
    CopyShape shape;
};
void CopyIn(const CopyCall& call);
void CopyOut(const CopyCall& call);

// Vector calls on the first `count` elements.
enum class VectorOp : uint8_t { kAdd, kSub, kMul, kMuls, kDuplicate, kCast };

struct VectorCall {
    const char* name;
    VectorOp op;
    Element dst_element;
    Element src_element;
    LocalRange dst;
    LocalRange src0;
    LocalRange src1;
    int sources;
    uint64_t scalar;  // bits of an element of dst, for kMuls and kDuplicate
    int round_mode;   // number of AscendC::RoundMode, for kCast
    int64_t count;
};
void Vector(const VectorCall& call);

// Flags and barriers between pipes.
enum class FlagKind : uint8_t { kHardEvent, kQueSync };
void SetFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id);
void WaitFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id);
int32_t AllocEventId(Pipe source, Pipe destination);
int32_t FetchEventId(Pipe source, Pipe destination);
void ReleaseEventId(Pipe source, Pipe destination, int32_t id);
void Barrier(Pipe pipe);
void BarrierAll();

// Single items, pipe S.
void ReadLocal(const LocalRange& tensor, uint64_t offset_bytes, void* value, uint32_t bytes);
void WriteLocal(const LocalRange& tensor, uint64_t offset_bytes, const void* value, uint32_t bytes);
void ReadGlobal(uint64_t gm, void* value, uint32_t bytes);
void WriteGlobal(uint64_t gm, const void* value, uint32_t bytes);

// Scalar conversions that only some chips have.
void RequireScalarBfloat16(const char* name);

// Tiling data and tiling key of the launch.
void ReadTiling(const void* tiling, void* data, uint64_t bytes);
uint64_t TilingKey();

// Ends the launch because the kernel left the bounds of a tensor, which a header noticed.
[[noreturn]] void FailBounds(const char* message);

}  // namespace sim

#endif  // SIMULATOR_DEVICE_H_
