#include "platform.h"

#include "core/chip.h"
#include "tiling/platform/platform_ascendc.h"

namespace platform_ascendc {

uint32_t PlatformAscendC::GetCoreNum() const { return GetCoreNumAic(); }
uint32_t PlatformAscendC::GetCoreNumAic() const { return platform_->chip().ai_cores; }
uint32_t PlatformAscendC::GetCoreNumAiv() const { return platform_->chip().vector_cores; }

void PlatformAscendC::GetCoreMemSize(const CoreMemType& memType, uint64_t& size) const {
    size = memType == CoreMemType::UB    ? platform_->chip().ub_bytes
           : memType == CoreMemType::L2  ? platform_->chip().l2_bytes
           : memType == CoreMemType::HBM ? platform_->chip().memory_bytes
                                         : 0;
}

}  // namespace platform_ascendc
