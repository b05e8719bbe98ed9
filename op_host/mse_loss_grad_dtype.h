// The operator's dtypes. Thread safety: pure.
#ifndef OP_HOST_MSE_LOSS_GRAD_DTYPE_H_
#define OP_HOST_MSE_LOSS_GRAD_DTYPE_H_

#include <cstdint>
#include <string>

#include "graph/types.h"

namespace mse_loss_grad {

// Returns "float32", "float16", "bfloat16", or "dtype <number>" for any other dtype.
std::string DtypeName(ge::DataType dtype);

// Returns the bytes of an item: 4 or 2; 0 for a dtype that the operator does not have.
uint32_t ItemBytes(ge::DataType dtype);

// Returns whether predict has one of the operator's dtypes; if not, `reason` says so.
bool CheckDtype(ge::DataType predict, std::string* reason);

// Returns whether `other`, named `name`, has the dtype of predict; if not, `reason` says so.
bool CheckSameDtype(ge::DataType predict, ge::DataType other, const std::string& name, std::string* reason);

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_DTYPE_H_
