#include "simulator/element.h"

#include "rounding.h"

half::half(float value) : bits_(sim::HalfFromFloat(value)) {}

half::operator float() const { return sim::FloatFromHalf(bits_); }

bfloat16_t::bfloat16_t(float value) : bits_(sim::Bfloat16FromFloat(value)) {}

float bfloat16_t::Widened() const { return sim::FloatFromBfloat16(bits_); }

namespace sim {

const char* NameOf(Element element) {
    switch (element) {
        case Element::kInt8:
            return "int8_t";
        case Element::kUint8:
            return "uint8_t";
        case Element::kInt16:
            return "int16_t";
        case Element::kUint16:
            return "uint16_t";
        case Element::kHalf:
            return "half";
        case Element::kBfloat16:
            return "bfloat16_t";
        case Element::kInt32:
            return "int32_t";
        case Element::kUint32:
            return "uint32_t";
        case Element::kFloat:
            return "float";
        case Element::kOther:
            break;
    }
    return "a type that the simulator does not model";
}

uint32_t BytesOf(Element element) {
    switch (element) {
        case Element::kInt8:
        case Element::kUint8:
            return 1;
        case Element::kInt16:
        case Element::kUint16:
        case Element::kHalf:
        case Element::kBfloat16:
            return 2;
        case Element::kInt32:
        case Element::kUint32:
        case Element::kFloat:
            return 4;
        case Element::kOther:
            break;
    }
    return 0;
}

}  // namespace sim
