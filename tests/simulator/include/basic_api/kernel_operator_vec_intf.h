// Vector calls on the first `count` elements.
//
// Models: include/basic_api/kernel_operator_vec_binary_intf.h, _binary_scalar_intf.h, _duplicate_intf.h, _vconv_intf.h;
// the document of each call under Memory矢量计算. For all: UB addresses are multiples of 32 bytes
// (通用说明和约束.md), operands overlap wholly or not at all, pipe V. A count of 0 does nothing on Atlas A2 and is
// documented for no other product, so it is refused on chip 310B. Stricter reading: every 32 bytes that a call reads
// must have been written since AllocTensor.
#ifndef BASIC_API_KERNEL_OPERATOR_VEC_INTF_H_
#define BASIC_API_KERNEL_OPERATOR_VEC_INTF_H_

#include <cstdint>

#include "basic_api/kernel_operator_data_copy_intf.h"
#include "basic_api/kernel_tensor.h"
#include "basic_api/kernel_type.h"

namespace sim {

template <typename T>
void Binary(const char* name, VectorOp op, const AscendC::LocalTensor<T>& dst, const AscendC::LocalTensor<T>& src0,
            const AscendC::LocalTensor<T>& src1, int64_t count) {
    Vector({name, op, ElementOf<T>(), ElementOf<T>(), dst.Range(), src0.Range(), src1.Range(), 2, 0, 0, count});
}

}  // namespace sim

namespace AscendC {

// 基础算术/Add.md, Sub.md, Mul.md: int16_t, half, int32_t, float on Atlas A2 and on Atlas 200I/500 A2.
template <typename T>
void Add(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& count) {
    sim::Binary("Add", sim::VectorOp::kAdd, dst, src0, src1, count);
}

template <typename T>
void Sub(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& count) {
    sim::Binary("Sub", sim::VectorOp::kSub, dst, src0, src1, count);
}

template <typename T>
void Mul(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, const int32_t& count) {
    sim::Binary("Mul", sim::VectorOp::kMul, dst, src0, src1, count);
}

// 基础算术/Muls.md: int16_t, half, int32_t, float.
template <typename T, bool isSetMask = true>
void Muls(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalarValue, const int32_t& count) {
    static_assert(isSetMask, "the simulator models the mask that Muls sets itself");
    sim::Vector({"Muls", sim::VectorOp::kMuls, sim::ElementOf<T>(), sim::ElementOf<T>(), dst.Range(), src.Range(),
                 sim::LocalRange(), 1, sim::BitsOf(scalarValue), 0, count});
}

// 数据填充/Duplicate.md: int16_t, uint16_t, half, bfloat16_t, int32_t, uint32_t, float.
template <typename T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalarValue, const int32_t& count) {
    static_assert(isSetMask, "the simulator models the mask that Duplicate sets itself");
    sim::Vector({"Duplicate", sim::VectorOp::kDuplicate, sim::ElementOf<T>(), sim::ElementOf<T>(), dst.Range(),
                 sim::LocalRange(), sim::LocalRange(), 0, sim::BitsOf(scalarValue), 0, count});
}

// 类型转换/Cast.md, the tables of Atlas A2 and Atlas 200I/500 A2: half and bfloat16_t to float only CAST_NONE; float to
// half any mode, to bfloat16_t any mode but CAST_NONE and CAST_ODD. Not modelled: integers.
template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& roundMode, const uint32_t count) {
    sim::Vector({"Cast", sim::VectorOp::kCast, sim::ElementOf<T>(), sim::ElementOf<U>(), dst.Range(), src.Range(),
                 sim::LocalRange(), 1, 0, static_cast<int>(roundMode), count});
}

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_OPERATOR_VEC_INTF_H_
