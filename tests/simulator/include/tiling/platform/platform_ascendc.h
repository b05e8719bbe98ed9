// Facts about the chip for a tiling function.
// Models: asc-devkit include/utils/tiling/platform/platform_ascendc.h. On 910B the size of UB is 256 bytes less than
// the hardware has (impl/utils/tiling/platform/platform_ascendc.cpp, LOCAL_RESERV_SIZE).
#ifndef TILING_PLATFORM_PLATFORM_ASCENDC_H_
#define TILING_PLATFORM_PLATFORM_ASCENDC_H_

#include <cstdint>

namespace fe {
class PlatFormInfos;
}

namespace platform_ascendc {

enum class CoreMemType { L0_A = 0, L0_B = 1, L0_C = 2, L1 = 3, L2 = 4, UB = 5, HBM = 6, FB = 7, BT = 8, RESERVED };

class PlatformAscendC {
public:
    PlatformAscendC() = delete;
    explicit PlatformAscendC(fe::PlatFormInfos* platformInfo) : platform_(platformInfo) {}

    uint32_t GetCoreNum() const;
    uint32_t GetCoreNumAic() const;
    uint32_t GetCoreNumAiv() const;

    // 0 for memory of the matrix unit, which the simulator does not model.
    void GetCoreMemSize(const CoreMemType& memType, uint64_t& size) const;

private:
    fe::PlatFormInfos* platform_;
};

}  // namespace platform_ascendc

#endif  // TILING_PLATFORM_PLATFORM_ASCENDC_H_
