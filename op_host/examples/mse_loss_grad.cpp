// Computes one gradient on the device through aclnnMseLossGrad and compares every bit of it with the formula.
//
// Shows each step that a caller of the operator needs, in order: start ACL, take a device and a stream, put the
// operands into device memory, ask for an executor and its workspace (phase one), run it (phase two), wait, fetch the
// result, and give everything back. Exit code 0 if all gradients are right, 1 otherwise.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "acl/acl.h"
#include "aclnn_mse_loss_grad.h"

namespace {

constexpr int32_t kDevice = 0;
constexpr int64_t kRows = 8;
constexpr int64_t kColumns = 2048;
constexpr size_t kElements = static_cast<size_t>(kRows * kColumns);

using Values = std::vector<float>;

// Runs `action` at the end of its scope, even if an exception ends it.
class Finally {
public:
    explicit Finally(std::function<void()> action) : action_(std::move(action)) {}
    ~Finally() { action_(); }
    Finally(const Finally&) = delete;
    Finally& operator=(const Finally&) = delete;

private:
    std::function<void()> action_;
};

// Throws std::runtime_error with ACL's own message unless `status`, returned by `call`, is success.
void Check(int32_t status, const char* call) {
    if (status == ACL_SUCCESS) {
        return;
    }
    const char* words = aclGetRecentErrMsg();
    throw std::runtime_error(std::string(call) + " returned " + std::to_string(status) + ": " +
                             (words == nullptr ? "ACL says nothing more" : words));
}

// A float32 tensor of kRows x kColumns in device memory.
class DeviceTensor {
public:
    explicit DeviceTensor(const Values& values) {
        const size_t bytes = values.size() * sizeof(float);
        Check(aclrtMalloc(&memory_, bytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        const int64_t shape[] = {kRows, kColumns};
        const int64_t strides[] = {kColumns, 1};
        tensor_ = aclCreateTensor(shape, 2, ACL_FLOAT, strides, 0, ACL_FORMAT_ND, shape, 2, memory_);
        try {
            if (tensor_ == nullptr) {
                throw std::runtime_error("aclCreateTensor returned no tensor");
            }
            Check(aclrtMemcpy(memory_, bytes, values.data(), bytes, ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
        } catch (...) {
            Release();
            throw;
        }
    }
    ~DeviceTensor() { Release(); }
    DeviceTensor(const DeviceTensor&) = delete;
    DeviceTensor& operator=(const DeviceTensor&) = delete;

    const aclTensor* get() const { return tensor_; }

    Values Fetch() const {
        Values values(kElements);
        const size_t bytes = values.size() * sizeof(float);
        Check(aclrtMemcpy(values.data(), bytes, memory_, bytes, ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
        return values;
    }

private:
    void Release() {
        if (tensor_ != nullptr) {
            aclDestroyTensor(tensor_);
        }
        aclrtFree(memory_);
    }

    void* memory_ = nullptr;
    aclTensor* tensor_ = nullptr;
};

// Runs both phases and returns when y is computed.
void ComputeGradient(const DeviceTensor& predict, const DeviceTensor& label, const DeviceTensor& dout,
                     const DeviceTensor& y, aclrtStream stream) {
    char reduction[] = "mean";
    uint64_t workspace_bytes = 0;
    aclOpExecutor* executor = nullptr;
    Check(aclnnMseLossGradGetWorkspaceSize(predict.get(), label.get(), dout.get(), reduction, y.get(), &workspace_bytes,
                                           &executor),
          "aclnnMseLossGradGetWorkspaceSize");
    void* workspace = nullptr;
    if (workspace_bytes > 0) {
        Check(aclrtMalloc(&workspace, workspace_bytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    }
    const Finally free_workspace([workspace] {
        if (workspace != nullptr) {
            aclrtFree(workspace);
        }
    });
    Check(aclnnMseLossGrad(workspace, workspace_bytes, executor, stream), "aclnnMseLossGrad");
    // A launch only queues the work; a fault on the device shows here.
    Check(aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");
}

Values Wave(float frequency, float phase) {
    Values values(kElements);
    for (size_t i = 0; i < kElements; ++i) {
        values[i] = std::sin(frequency * static_cast<float>(i) + phase);
    }
    return values;
}

// Returns how many elements of `y` have exactly the bits of ((predict - label) * (2 / N)) * dout in float32.
size_t CountRight(const Values& y, const Values& predict, const Values& label, const Values& dout) {
    const float coefficient = static_cast<float>(2.0 / static_cast<double>(kElements));
    size_t right = 0;
    for (size_t i = 0; i < kElements; ++i) {
        const float expected = ((predict[i] - label[i]) * coefficient) * dout[i];
        right += std::memcmp(&y[i], &expected, sizeof(float)) == 0 ? 1 : 0;
    }
    return right;
}

bool Run() {
    Check(aclInit(nullptr), "aclInit");
    const Finally finalise([] { aclFinalize(); });
    Check(aclrtSetDevice(kDevice), "aclrtSetDevice");
    const Finally reset_device([] { aclrtResetDevice(kDevice); });
    aclrtStream stream = nullptr;
    Check(aclrtCreateStream(&stream), "aclrtCreateStream");
    const Finally destroy_stream([stream] { aclrtDestroyStream(stream); });

    const Values predict = Wave(0.01f, 0.0f);
    const Values label = Wave(0.013f, 0.5f);
    const Values dout = Wave(0.007f, 1.0f);
    // No gradient here is NaN, so an output that was never written cannot pass for a result.
    const Values unwritten(kElements, std::numeric_limits<float>::quiet_NaN());

    const DeviceTensor device_predict(predict);
    const DeviceTensor device_label(label);
    const DeviceTensor device_dout(dout);
    const DeviceTensor device_y(unwritten);
    ComputeGradient(device_predict, device_label, device_dout, device_y, stream);

    const size_t right = CountRight(device_y.Fetch(), predict, label, dout);
    std::printf("%s: %zu of %zu gradients equal the formula\n", aclrtGetSocName(), right, kElements);
    return right == kElements;
}

}  // namespace

int main() {
    try {
        return Run() ? 0 : 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
