// Copies between global memory and UB.
// Models: include/basic_api/kernel_operator_data_copy_intf.h; Memory矢量计算/数据搬运.
#ifndef BASIC_API_KERNEL_OPERATOR_DATA_COPY_INTF_H_
#define BASIC_API_KERNEL_OPERATOR_DATA_COPY_INTF_H_

#include <cstring>

#include "basic_api/kernel_struct_data_copy.h"
#include "basic_api/kernel_tensor.h"

namespace sim {

constexpr uint64_t kUbBlockBytes = 32;  // unit of DataCopy

template <typename T>
CopyCall MakeCopy(const char* name, const AscendC::GlobalTensor<T>& global, const AscendC::LocalTensor<T>& local) {
    CopyCall call{};
    call.name = name;
    call.element = ElementOf<T>();
    call.gm = global.Address();
    call.local = local.Range();
    return call;
}

// Returns the bits of `value`, in the low bytes.
template <typename T>
uint64_t BitsOf(const T& value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T) < sizeof(bits) ? sizeof(T) : sizeof(bits));
    return bits;
}

}  // namespace sim

namespace AscendC {

// DataCopy（GM与UB连续数据搬运）.md: `count` elements, from global memory to VECIN or from VECOUT to it. If the bytes
// are no multiple of 32, the hardware drops the rest; stricter reading: refused, because data would be missing.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t count) {
    sim::CopyCall call = sim::MakeCopy("DataCopy", src, dst);
    call.shape.block_bytes = static_cast<uint64_t>(count) * sizeof(T);
    sim::CopyIn(call);
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count) {
    sim::CopyCall call = sim::MakeCopy("DataCopy", dst, src);
    call.shape.block_bytes = static_cast<uint64_t>(count) * sizeof(T);
    sim::CopyOut(call);
}

// DataCopy（GM与UB高维切分数据搬运）.md: blockLen and gaps count blocks of 32 bytes; at most 4095 runs; the same
// positions as above.
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& repeatParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopy", src, dst);
    call.shape.blocks = repeatParams.blockCount;
    call.shape.block_bytes = repeatParams.blockLen * sim::kUbBlockBytes;
    call.shape.gm_gap_bytes = repeatParams.srcGap * sim::kUbBlockBytes;
    call.shape.ub_gap_bytes = repeatParams.dstGap * sim::kUbBlockBytes;
    sim::CopyIn(call);
}

template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& repeatParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopy", dst, src);
    call.shape.blocks = repeatParams.blockCount;
    call.shape.block_bytes = repeatParams.blockLen * sim::kUbBlockBytes;
    call.shape.ub_gap_bytes = repeatParams.srcGap * sim::kUbBlockBytes;
    call.shape.gm_gap_bytes = repeatParams.dstGap * sim::kUbBlockBytes;
    sim::CopyOut(call);
}

// DataCopyPad（GMToUB非对齐数据搬运）.md: blockLen and the gap in global memory count bytes, the gap in UB blocks of 32
// bytes. At most 4095 runs of at most 2097151 bytes, to VECIN or VECOUT. Padding counts elements, at most 32 bytes a
// side. The rest of the last 32 bytes of a run gets dummy data. Stricter reading: without a padding value, padding and
// dummy data are poison.
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& dataCopyParams,
                 const DataCopyPadExtParams<T>& padParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopyPad", src, dst);
    call.shape.blocks = dataCopyParams.blockCount;
    call.shape.block_bytes = dataCopyParams.blockLen;
    call.shape.gm_gap_bytes = dataCopyParams.srcStride;
    call.shape.ub_gap_bytes = dataCopyParams.dstStride * sim::kUbBlockBytes;
    call.shape.left_pad_bytes = padParams.leftPadding * sizeof(T);
    call.shape.right_pad_bytes = padParams.rightPadding * sizeof(T);
    call.shape.pad_value_given = padParams.isPad;
    call.shape.pad_value = sim::BitsOf(padParams.paddingValue);
    sim::CopyIn(call);
}

// The older structs, with blockLen up to 65535.
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& dataCopyParams,
                 const DataCopyPadParams& padParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopyPad", src, dst);
    call.shape.blocks = dataCopyParams.blockCount;
    call.shape.block_bytes = dataCopyParams.blockLen;
    call.shape.gm_gap_bytes = dataCopyParams.srcStride;
    call.shape.ub_gap_bytes = dataCopyParams.dstStride * sim::kUbBlockBytes;
    call.shape.left_pad_bytes = padParams.leftPadding * sizeof(T);
    call.shape.right_pad_bytes = padParams.rightPadding * sizeof(T);
    call.shape.pad_value_given = padParams.isPad;
    call.shape.pad_value = padParams.paddingValue;
    sim::CopyIn(call);
}

// DataCopyPad（UBToGM非对齐数据搬运）.md: exactly blockLen bytes a run reach global memory, from VECIN or VECOUT.
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& dataCopyParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopyPad", dst, src);
    call.shape.blocks = dataCopyParams.blockCount;
    call.shape.block_bytes = dataCopyParams.blockLen;
    call.shape.ub_gap_bytes = dataCopyParams.srcStride * sim::kUbBlockBytes;
    call.shape.gm_gap_bytes = dataCopyParams.dstStride;
    sim::CopyOut(call);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& dataCopyParams) {
    sim::CopyCall call = sim::MakeCopy("DataCopyPad", dst, src);
    call.shape.blocks = dataCopyParams.blockCount;
    call.shape.block_bytes = dataCopyParams.blockLen;
    call.shape.ub_gap_bytes = dataCopyParams.srcStride * sim::kUbBlockBytes;
    call.shape.gm_gap_bytes = dataCopyParams.dstStride;
    sim::CopyOut(call);
}

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_OPERATOR_DATA_COPY_INTF_H_
