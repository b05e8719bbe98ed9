#include "mse_loss_grad_check.h"

#include <cstddef>
#include <cstring>
#include <limits>

namespace mse_loss_grad {
namespace {

constexpr size_t kMaxRank = 8;

std::string Text(const Shape& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    }
    return text + "]";
}

bool RankUnknown(const Shape& shape) { return shape.size() == 1 && shape[0] == kUnknownRank; }

bool MayBeEqual(const Shape& left, const Shape& right) {
    if (RankUnknown(left) || RankUnknown(right)) {
        return true;
    }
    if (left.size() != right.size()) {
        return false;
    }
    for (size_t i = 0; i < left.size(); ++i) {
        if (left[i] != right[i] && left[i] != kUnknownExtent && right[i] != kUnknownExtent) {
            return false;
        }
    }
    return true;
}

}  // namespace

bool ParseReduction(const char* text, Reduction* reduction, std::string* reason) {
    if (text == nullptr || std::strcmp(text, "mean") == 0) {
        *reduction = Reduction::kMean;
        return true;
    }
    if (std::strcmp(text, "none") == 0) {
        *reduction = Reduction::kNone;
        return true;
    }
    if (std::strcmp(text, "sum") == 0) {
        *reduction = Reduction::kSum;
        return true;
    }
    *reason = "reduction is \"" + std::string(text) + "\"; it must be \"none\", \"mean\" or \"sum\"";
    return false;
}

bool CheckRank(const Shape& shape, const std::string& name, std::string* reason) {
    if (shape.size() > kMaxRank) {
        *reason = name + " has " + std::to_string(shape.size()) + " dimensions; at most 8 are allowed";
        return false;
    }
    return true;
}

bool CountElements(const Shape& shape, const std::string& name, int64_t* elements, std::string* reason) {
    if (!CheckRank(shape, name, reason)) {
        return false;
    }
    bool empty = false;
    for (const int64_t extent : shape) {
        if (extent < 0) {
            *reason = name + " has shape " + Text(shape) + "; no dimension may be negative";
            return false;
        }
        empty = empty || extent == 0;
    }
    *elements = empty ? 0 : 1;
    for (size_t i = 0; i < shape.size() && !empty; ++i) {
        if (*elements > std::numeric_limits<int64_t>::max() / shape[i]) {
            *reason = name + " has shape " + Text(shape) + "; more than 2^63 - 1 elements are not allowed";
            return false;
        }
        *elements *= shape[i];
    }
    return true;
}

bool CheckSameShape(const Shape& predict, const Shape& other, const std::string& name, std::string* reason) {
    if (!MayBeEqual(predict, other)) {
        *reason = "predict has shape " + Text(predict) + ", " + name + " has " + Text(other) + "; they must be equal";
        return false;
    }
    return true;
}

bool CheckDoutShape(const Shape& predict, const Shape& dout, bool* scalar, std::string* reason) {
    *scalar = false;
    if (MayBeEqual(predict, dout)) {
        return true;
    }
    *scalar = dout.empty() || (dout.size() == 1 && (dout[0] == 1 || dout[0] == kUnknownExtent));
    if (!*scalar) {
        *reason = "predict has shape " + Text(predict) + ", dout has " + Text(dout) +
                  "; dout must have the shape of predict or one element of rank 0 or 1";
    }
    return *scalar;
}

}  // namespace mse_loss_grad
