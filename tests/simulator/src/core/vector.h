// What the vector unit computes: loops over whole operands.
#ifndef SIMULATOR_VECTOR_H_
#define SIMULATOR_VECTOR_H_

#include <cstdint>
#include <string>

#include "simulator/device.h"

namespace sim {

struct VectorOperands {
    void* dst;
    const void* src0;
    const void* src1;
    uint64_t scalar;  // bits of an element
    int64_t count;    // elements
    int round_mode;   // number of AscendC::RoundMode
};

using VectorLoop = void (*)(const VectorOperands&);

// Returns the loop of a call. Where the chips that the simulator knows have no such instruction: nullptr, and what they
// have instead in `supported`. `round_mode` is a number of AscendC::RoundMode.
VectorLoop FindVectorLoop(VectorOp op, Element dst, Element src, int round_mode, std::string* supported);

}  // namespace sim

#endif  // SIMULATOR_VECTOR_H_
