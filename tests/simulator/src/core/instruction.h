// One call of a kernel, which its pipe may run much later than it was issued.
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
    uint32_t number;   // within its pipe, from 1
    uint64_t order;    // in the program
    Clock issued;      // what S knew to be finished when it issued the call
    double issued_at;  // cycle of S
    double cycles;     // that it takes

    // Fields of copies and vector calls.
    LocalRange dst;
    LocalRange src0;
    LocalRange src1;
    uint64_t dst_bytes;
    uint64_t src_bytes;  // of each source
    int sources;

    // Fields of copies.
    uint64_t gm;
    CopyShape shape;
    uint32_t element_bytes;

    // Fields of vector calls.
    VectorLoop loop;
    Element dst_element;
    uint64_t scalar;
    int64_t count;
    int round_mode;

    // Fields of flags: the other pipe, and the id.
    Pipe peer;
    int32_t id;
};

}  // namespace sim

#endif  // SIMULATOR_INSTRUCTION_H_
