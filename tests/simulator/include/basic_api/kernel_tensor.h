// Tensors in UB and in global memory.
// Models: include/basic_api/kernel_tensor.h; 数据结构/LocalTensor, 数据结构/GlobalTensor.
#ifndef BASIC_API_KERNEL_TENSOR_H_
#define BASIC_API_KERNEL_TENSOR_H_

#include <cstdint>

#include "basic_api/kernel_macros.h"
#include "basic_api/kernel_type.h"

namespace AscendC {

// A range of UB, cheap to copy. A default-constructed one has no elements, so any use of it is out of bounds.
// Stricter reading: a tensor ends at the end of its buffer of InitBuffer; hardware has no such bound.
template <typename T>
class LocalTensor {
public:
    using PrimType = T;

    LocalTensor() = default;
    explicit LocalTensor(const sim::LocalRange& range) : range_(range) {}

    // Returns the tensor from element `offset` on.
    LocalTensor operator[](const uint32_t offset) const {
        return LocalTensor(sim::Offset(range_, static_cast<uint64_t>(offset) * sizeof(T)));
    }

    // Reads one element, pipe S. 同步控制/核内同步/关键特性说明.md: no queue orders S and another pipe; the compiler
    // inserts that order unless told not to. Stricter reading: it does not, so the kernel needs a flag.
    T GetValue(const uint32_t index) const {
        T value;
        sim::ReadLocal(range_, static_cast<uint64_t>(index) * sizeof(T), &value, sizeof(T));
        return value;
    }

    // Writes one element, pipe S; like GetValue, it needs a flag between it and other pipes.
    template <typename S>
    void SetValue(const uint32_t index, const S value) const {
        const T element = static_cast<T>(value);
        sim::WriteLocal(range_, static_cast<uint64_t>(index) * sizeof(T), &element, sizeof(T));
    }

    uint32_t GetSize() const { return range_.bytes / sizeof(T); }  // elements
    void SetSize(const uint32_t size) {
        if (static_cast<uint64_t>(size) * sizeof(T) > range_.bytes) {
            sim::FailBounds("SetSize makes a tensor longer than its buffer");
        }
        range_.bytes = size * sizeof(T);
    }

    template <typename U>
    LocalTensor<U> ReinterpretCast() const {
        return LocalTensor<U>(range_);
    }

    const sim::LocalRange& Range() const { return range_; }  // for the simulator

private:
    sim::LocalRange range_;
};

// An address in global memory. As on a device, `bufferSize` of SetGlobalBuffer limits nothing; a launch may touch the
// tensors that it was given.
template <typename T>
class GlobalTensor {
public:
    using PrimType = T;

    GlobalTensor() = default;

    void SetGlobalBuffer(__gm__ T* buffer, uint64_t bufferSize) {
        address_ = reinterpret_cast<uint64_t>(buffer);
        size_ = bufferSize;
    }
    void SetGlobalBuffer(__gm__ T* buffer) { SetGlobalBuffer(buffer, 0); }

    GlobalTensor operator[](const uint64_t offset) const {
        GlobalTensor tensor = *this;
        tensor.address_ += offset * sizeof(T);
        return tensor;
    }

    // Reads one element, pipe S, through the data cache (数据结构/GlobalTensor/GetValue.md). Correct for data that no
    // call writes during the launch; a launch that also writes it is refused at its end.
    T GetValue(const uint64_t offset) const {
        T value;
        sim::ReadGlobal(address_ + offset * sizeof(T), &value, sizeof(T));
        return value;
    }

    // Writes one element, pipe S. Stricter reading: the data cache is not coherent with anything, so a launch that uses
    // this is refused; DataCopyPad writes single items too.
    void SetValue(const uint64_t offset, T value) {
        sim::WriteGlobal(address_ + offset * sizeof(T), &value, sizeof(T));
    }

    uint64_t GetSize() const { return size_; }
    uint64_t Address() const { return address_; }  // for the simulator

private:
    uint64_t address_ = 0;
    uint64_t size_ = 0;
};

}  // namespace AscendC

#endif  // BASIC_API_KERNEL_TENSOR_H_
