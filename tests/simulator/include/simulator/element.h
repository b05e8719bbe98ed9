// The element types of tensors, and the two 16-bit float types that a host compiler lacks.
#ifndef SIMULATOR_ELEMENT_H_
#define SIMULATOR_ELEMENT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

// IEEE 754 binary16. Source: asc-devkit docs, SIMD-API, built-in data types: converts to and from float implicitly.
class half {
public:
    half() = default;
    half(float value);  // rounds to nearest, ties to even
    operator float() const;

private:
    uint16_t bits_;
};

// The upper half of a binary32. Source: as above; a scalar converts only by ToFloat, ToBfloat16, Cast or explicitly.
class bfloat16_t {
public:
    bfloat16_t() = default;
    explicit bfloat16_t(float value);  // rounds to nearest, ties to even

    // For the scalar Cast of AscendC; not an operator, so that arithmetic on bfloat16_t does not compile.
    float Widened() const;

private:
    uint16_t bits_;
};

static_assert(sizeof(half) == 2 && sizeof(bfloat16_t) == 2);

namespace sim {

enum class Element : uint8_t { kInt8, kUint8, kInt16, kUint16, kHalf, kBfloat16, kInt32, kUint32, kFloat, kOther };

template <typename T>
constexpr Element ElementOf() {
    if constexpr (std::is_same_v<T, float>) {
        return Element::kFloat;
    } else if constexpr (std::is_same_v<T, half>) {
        return Element::kHalf;
    } else if constexpr (std::is_same_v<T, bfloat16_t>) {
        return Element::kBfloat16;
    } else if constexpr (std::is_same_v<T, int32_t>) {
        return Element::kInt32;
    } else if constexpr (std::is_same_v<T, uint32_t>) {
        return Element::kUint32;
    } else if constexpr (std::is_same_v<T, int16_t>) {
        return Element::kInt16;
    } else if constexpr (std::is_same_v<T, uint16_t>) {
        return Element::kUint16;
    } else if constexpr (std::is_same_v<T, int8_t>) {
        return Element::kInt8;
    } else if constexpr (std::is_same_v<T, uint8_t>) {
        return Element::kUint8;
    } else {
        return Element::kOther;
    }
}

// Returns the name in kernels, such as "bfloat16_t".
const char* NameOf(Element element);

// Returns the bytes of one element, 0 for kOther.
uint32_t BytesOf(Element element);

}  // namespace sim

#endif  // SIMULATOR_ELEMENT_H_
