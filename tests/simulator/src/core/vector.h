// Arithmetic of the vector unit: loops over whole operands.
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

// Returns the loop of a call. Returns nullptr if the simulated chips have no such instruction, and puts the supported
// alternative into `supported`. `round_mode` is a number of AscendC::RoundMode.
VectorLoop FindVectorLoop(VectorOp op, Element dst, Element src, int round_mode, std::string* supported);

// Replaces infinities by the largest value with their sign, and NaN by zero, in `count` elements of float, half or
// bfloat16_t, as a vector unit does in saturation mode. Source: aclrtFloatOverflowMode, hicann/runtime docs.
void Saturate(Element element, void* values, int64_t count);

}  // namespace sim

#endif  // SIMULATOR_VECTOR_H_
