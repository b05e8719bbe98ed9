// One call of a kernel as its pipe runs it, perhaps much later than it was issued.
#ifndef SIMULATOR_INSTRUCTION_H_
#define SIMULATOR_INSTRUCTION_H_

#include <cstdint>

#include "simulator/device.h"
#include "unified_buffer.h"
#include "vector.h"

namespace sim {

struct Instruction {
    enum class Kind : uint8_t { kCopyIn, kCopyOut, kVector, kSetFlag, kWaitFlag, kBarrier, kFree };

    Kind kind;
    const char* name;
    uint32_t number;   // in its pipe, from 1
    uint64_t order;    // in the program
    Clock issued;      // what S knew to be finished when it issued this
    double issued_at;  // cycle of S
    double cycles;     // that it takes

    // Copies and vector calls.
    LocalRange dst;
    LocalRange src0;
    LocalRange src1;
    uint64_t dst_bytes;
    uint64_t src_bytes;  // of each source
    int sources;

    // Copies.
    uint64_t gm;
    CopyShape shape;
    uint32_t element_bytes;

    // Vector calls.
    VectorLoop loop;
    uint64_t scalar;
    int64_t count;
    int round_mode;

    // Flags: the other pipe, and the id.
    Pipe peer;
    int32_t id;
};

}  // namespace sim

#endif  // SIMULATOR_INSTRUCTION_H_
