#include "kernels.h"

#include <map>
#include <mutex>

#include "simulator/operator.h"

namespace sim {
namespace {

struct Kernels {
    std::string name;
    std::map<ge::DataType, KernelEntry> by_dtype;
    std::map<ge::DataType, KernelEntry> replaced;
};

struct Registry {
    std::mutex mutex;
    std::map<std::string, Kernels> by_type;
};

// Libraries register while they are loaded, before any other code of theirs runs.
Registry& TheRegistry() {
    static Registry registry;
    return registry;
}

}  // namespace

int RegisterKernels(const char* op_type, const char* kernel_name, const std::vector<KernelOfDtype>& kernels) {
    const std::lock_guard<std::mutex> lock(TheRegistry().mutex);
    Kernels& of_type = TheRegistry().by_type[op_type];
    of_type.name = kernel_name;
    for (const KernelOfDtype& kernel : kernels) {
        of_type.by_dtype[kernel.dtype] = kernel.entry;
    }
    return 0;
}

bool FindKernel(const std::string& op_type, ge::DataType dtype, LaunchRequest* request) {
    const std::lock_guard<std::mutex> lock(TheRegistry().mutex);
    const auto kernels = TheRegistry().by_type.find(op_type);
    if (kernels == TheRegistry().by_type.end()) {
        return false;
    }
    const auto& replaced = kernels->second.replaced;
    const auto& by_dtype = replaced.count(dtype) != 0 ? replaced : kernels->second.by_dtype;
    const auto kernel = by_dtype.find(dtype);
    if (kernel == by_dtype.end()) {
        return false;
    }
    request->name = kernels->second.name;
    request->entry = kernel->second;
    return true;
}

}  // namespace sim

void AscendSimulatorReplaceKernel(const char* op_type, int32_t dtype, void (*entry)()) {
    const std::lock_guard<std::mutex> lock(sim::TheRegistry().mutex);
    auto& replaced = sim::TheRegistry().by_type[op_type].replaced;
    if (entry == nullptr) {
        replaced.erase(static_cast<ge::DataType>(dtype));
    } else {
        replaced[static_cast<ge::DataType>(dtype)] = entry;
    }
}
