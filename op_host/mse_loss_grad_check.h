// The operator's rules on shapes and on the attribute `reduction`, without toolkit headers, like the plan. Each
// function returns whether its rule holds. If not, `reason` says what was wrong and what is allowed. Thread safety:
// pure.
#ifndef OP_HOST_MSE_LOSS_GRAD_CHECK_H_
#define OP_HOST_MSE_LOSS_GRAD_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mse_loss_grad_plan.h"

namespace mse_loss_grad {

// Extents, outermost first; empty for a tensor of rank 0. While a graph is built, an extent may be unknown (-1), or the
// rank too (a single extent of -2). Unknown extents agree with everything.
using Shape = std::vector<int64_t>;

constexpr int64_t kUnknownExtent = -1;
constexpr int64_t kUnknownRank = -2;

// Rule: `text` is "none", "mean" or "sum", or null for the default, mean.
bool ParseReduction(const char* text, Reduction* reduction, std::string* reason);

// Rule: at most 8 dimensions.
bool CheckRank(const Shape& shape, const std::string& name, std::string* reason);

// Rule: at most 8 dimensions, all known, none negative, at most 2^63 - 1 elements.
bool CountElements(const Shape& shape, const std::string& name, int64_t* elements, std::string* reason);

// Rule: `other`, named `name`, has the shape of predict.
bool CheckSameShape(const Shape& predict, const Shape& other, const std::string& name, std::string* reason);

// Rule: dout has the shape of predict (sets `scalar` to false), or one element of rank 0 or 1 (sets `scalar` to true).
// Nothing else is broadcast.
bool CheckDoutShape(const Shape& predict, const Shape& dout, bool* scalar, std::string* reason);

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_CHECK_H_
