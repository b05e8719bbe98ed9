// The operator's rules on shapes and on the attribute `reduction`. No toolkit header, like the plan. Every function
// returns false and says in `reason` what was wrong and what is allowed. Thread safety: pure.
#ifndef OP_HOST_MSE_LOSS_GRAD_CHECK_H_
#define OP_HOST_MSE_LOSS_GRAD_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "mse_loss_grad_plan.h"

namespace mse_loss_grad {

// Extents, outermost first; empty for a tensor of rank 0. While a graph is built an extent may be unknown (-1), or the
// rank as well (the one extent -2): what is unknown agrees with everything.
using Shape = std::vector<int64_t>;

constexpr int64_t kUnknownExtent = -1;
constexpr int64_t kUnknownRank = -2;

// `text` is "none", "mean" or "sum"; a null `text` is the default, mean.
bool ParseReduction(const char* text, Reduction* reduction, std::string* reason);

// At most 8 dimensions.
bool CheckRank(const Shape& shape, const std::string& name, std::string* reason);

// At most 8 dimensions, all known, none negative, at most 2^63 - 1 elements.
bool CountElements(const Shape& shape, const std::string& name, int64_t* elements, std::string* reason);

// `other`, named `name`, has the shape of predict.
bool CheckSameShape(const Shape& predict, const Shape& other, const std::string& name, std::string* reason);

// dout has the shape of predict (`scalar` is set to false), or one element of rank 0 or 1 (`scalar` is set to true).
// Nothing else is broadcast.
bool CheckDoutShape(const Shape& predict, const Shape& dout, bool* scalar, std::string* reason);

}  // namespace mse_loss_grad

#endif  // OP_HOST_MSE_LOSS_GRAD_CHECK_H_
