// The functions of device.h, for the core that the calling thread runs.
#include "simulator/device.h"

#include <cstring>

#include "core.h"

namespace sim {

int64_t BlockIndex() { return CurrentCore().block(); }
int64_t BlockCount() { return CurrentCore().launch().blocks; }

void OpenPipe() { CurrentCore().OpenPipe(); }
void DestroyPipe() { CurrentCore().DestroyPipe(); }
void ClosePipe() noexcept { CurrentCore().ClosePipe(); }
void CheckQueueConfig(uint32_t config_buffers, uint32_t config_bytes, uint32_t buffers, uint32_t bytes) {
    CurrentCore().CheckQueueConfig(config_buffers, config_bytes, buffers, bytes);
}
int32_t InitQueue(UbPosition position, int32_t depth, uint32_t buffers, uint32_t bytes) {
    return CurrentCore().InitQueue(position, depth, buffers, bytes);
}
LocalRange InitTBuf(UbPosition position, uint32_t bytes) { return CurrentCore().InitTBuf(position, bytes); }

LocalRange AllocTensor(int32_t queue) { return CurrentCore().AllocTensor(queue); }
void EnQue(int32_t queue, const LocalRange& tensor) { CurrentCore().EnQue(queue, tensor); }
LocalRange DeQue(int32_t queue) { return CurrentCore().DeQue(queue); }
void FreeTensor(int32_t queue, const LocalRange& tensor) { CurrentCore().FreeTensor(queue, tensor); }
int32_t TensorsInQueue(int32_t queue) { return CurrentCore().TensorsInQueue(queue); }
bool HasIdleBuffer(int32_t queue) { return CurrentCore().HasIdleBuffer(queue); }
LocalRange Offset(const LocalRange& tensor, uint64_t offset_bytes) {
    return CurrentCore().Offset(tensor, offset_bytes);
}

void CopyIn(const CopyCall& call) { CurrentCore().Copy(call, true); }
void CopyOut(const CopyCall& call) { CurrentCore().Copy(call, false); }
void Vector(const VectorCall& call) { CurrentCore().Vector(call); }

void SetFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id) {
    CurrentCore().SetFlag(kind, source, destination, id);
}
void WaitFlag(FlagKind kind, Pipe source, Pipe destination, int32_t id) {
    CurrentCore().WaitFlag(kind, source, destination, id);
}
int32_t AllocEventId(Pipe source, Pipe destination) {
    return CurrentCore().AllocEventId(source, destination, "AllocEventID");
}
int32_t FetchEventId(Pipe source, Pipe destination) {
    Core& core = CurrentCore();
    core.RefuseOn310b("FetchEventID");
    const int32_t id = core.FetchEventId(source, destination);
    if (id < 0) {
        core.Fail(Cause::kFlag, "FetchEventID finds no free event id");
    }
    return id;
}
void ReleaseEventId(Pipe source, Pipe destination, int32_t id) {
    CurrentCore().ReleaseEventId(source, destination, id);
}
void Barrier(Pipe pipe) { CurrentCore().Barrier(pipe); }
void BarrierAll() { CurrentCore().BarrierAll(); }

void ReadLocal(const LocalRange& tensor, uint64_t offset_bytes, void* value, uint32_t bytes) {
    CurrentCore().ReadLocal(tensor, offset_bytes, value, bytes);
}
void WriteLocal(const LocalRange& tensor, uint64_t offset_bytes, const void* value, uint32_t bytes) {
    CurrentCore().WriteLocal(tensor, offset_bytes, value, bytes);
}
void ReadGlobal(uint64_t gm, void* value, uint32_t bytes) { CurrentCore().ReadGlobal(gm, value, bytes); }
void WriteGlobal(uint64_t, const void*, uint32_t) {
    CurrentCore().Fail(
        Cause::kUnsupported,
        "GlobalTensor::SetValue writes to a data cache that is coherent with nothing; DataCopyPad writes "
        "single items too");
}

void RequireScalarBfloat16(const char* name) { CurrentCore().RefuseOn310b(name); }

void ReadTiling(const void* tiling, void* data, uint64_t bytes) {
    const Core& core = CurrentCore();
    const std::vector<unsigned char>& given = core.launch().tiling;
    if (tiling != given.data() || bytes > given.size()) {
        core.Fail(Cause::kBounds, Format("GET_TILING_DATA of %llu bytes; the tiling argument holds %zu",
                                         static_cast<unsigned long long>(bytes), given.size()));
    }
    std::memcpy(data, tiling, bytes);
}

uint64_t TilingKey() { return CurrentCore().launch().tiling_key; }

void FailBounds(const char* message) { CurrentCore().Fail(Cause::kBounds, message); }

}  // namespace sim
