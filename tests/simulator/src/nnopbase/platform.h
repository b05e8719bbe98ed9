// The chip, as tiling functions receive it.
#ifndef SIMULATOR_NNOPBASE_PLATFORM_H_
#define SIMULATOR_NNOPBASE_PLATFORM_H_

#include "core/chip.h"

namespace fe {

class PlatFormInfos {
public:
    explicit PlatFormInfos(const sim::Chip& chip) : chip_(chip) {}
    const sim::Chip& chip() const { return chip_; }

private:
    const sim::Chip& chip_;
};

}  // namespace fe

#endif  // SIMULATOR_NNOPBASE_PLATFORM_H_
