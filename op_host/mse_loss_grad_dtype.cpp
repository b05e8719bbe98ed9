#include "mse_loss_grad_dtype.h"

namespace mse_loss_grad {

std::string DtypeName(ge::DataType dtype) {
    switch (dtype) {
        case ge::DT_FLOAT:
            return "float32";
        case ge::DT_FLOAT16:
            return "float16";
        case ge::DT_BF16:
            return "bfloat16";
        default:
            return "dtype " + std::to_string(static_cast<int>(dtype));
    }
}

uint32_t ItemBytes(ge::DataType dtype) {
    switch (dtype) {
        case ge::DT_FLOAT:
            return 4;
        case ge::DT_FLOAT16:
        case ge::DT_BF16:
            return 2;
        default:
            return 0;
    }
}

bool CheckDtype(ge::DataType predict, std::string* reason) {
    if (ItemBytes(predict) == 0) {
        *reason = "predict has " + DtypeName(predict) + "; it must have float32, float16 or bfloat16";
        return false;
    }
    return true;
}

bool CheckSameDtype(ge::DataType predict, ge::DataType other, const std::string& name, std::string* reason) {
    if (other != predict) {
        *reason =
            "predict has " + DtypeName(predict) + ", " + name + " has " + DtypeName(other) + "; they must be equal";
        return false;
    }
    return true;
}

}  // namespace mse_loss_grad
