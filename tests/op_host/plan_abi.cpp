// The plan and the checks of the operator's host side as C functions, for ctypes. Each returns 1, or 0 with the reason.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "../../op_host/mse_loss_grad_check.h"
#include "../../op_host/mse_loss_grad_plan.h"

namespace {

using mse_loss_grad::Problem;
using mse_loss_grad::Reduction;
using mse_loss_grad::Shape;

struct ReasonBuffer {
    char* text;
    size_t bytes;
};

int32_t Answer(bool accepted, const std::string& reason, ReasonBuffer buffer) {
    const size_t length = std::min(reason.size(), buffer.bytes - 1);
    std::copy(reason.begin(), reason.begin() + static_cast<std::ptrdiff_t>(length), buffer.text);
    buffer.text[length] = '\0';
    return accepted ? 1 : 0;
}

}  // namespace

extern "C" {

uint64_t tiling_bytes() { return sizeof(MseLossGradTilingData); }

int32_t plan(int64_t elements, int64_t numel, int32_t reduction, uint32_t item_bytes, int32_t scalar_dout,
             uint32_t cores, uint64_t ub_bytes, MseLossGradTilingData* tiling, char* reason, size_t reason_bytes) {
    Problem problem = Problem();
    problem.elements = elements;
    problem.numel = numel;
    problem.reduction = static_cast<Reduction>(reduction);
    problem.item_bytes = item_bytes;
    problem.scalar_dout = scalar_dout != 0;
    problem.cores = cores;
    problem.ub_bytes = ub_bytes;
    std::string text;
    const bool accepted = mse_loss_grad::Plan(problem, tiling, &text);
    return Answer(accepted, text, ReasonBuffer{reason, reason_bytes});
}

int64_t block_begin(const MseLossGradTilingData* tiling, int64_t block, int64_t line_elements) {
    return MseLossGradBlockBegin(*tiling, block, line_elements);
}

int32_t parse_reduction(const char* text, int32_t* reduction, char* reason, size_t reason_bytes) {
    Reduction parsed = Reduction::kNone;
    std::string refusal;
    const bool accepted = mse_loss_grad::ParseReduction(text, &parsed, &refusal);
    *reduction = static_cast<int32_t>(parsed);
    return Answer(accepted, refusal, ReasonBuffer{reason, reason_bytes});
}

int32_t count_elements(const int64_t* extents, size_t rank, int64_t* elements, char* reason, size_t reason_bytes) {
    std::string text;
    const bool accepted = mse_loss_grad::CountElements(Shape(extents, extents + rank), "predict", elements, &text);
    return Answer(accepted, text, ReasonBuffer{reason, reason_bytes});
}

int32_t check_same_shape(const int64_t* predict, size_t predict_rank, const int64_t* label, size_t label_rank,
                         char* reason, size_t reason_bytes) {
    std::string text;
    const bool accepted = mse_loss_grad::CheckSameShape(Shape(predict, predict + predict_rank),
                                                        Shape(label, label + label_rank), "label", &text);
    return Answer(accepted, text, ReasonBuffer{reason, reason_bytes});
}

int32_t check_dout_shape(const int64_t* predict, size_t predict_rank, const int64_t* dout, size_t dout_rank,
                         int32_t* scalar_dout, char* reason, size_t reason_bytes) {
    bool scalar = false;
    std::string text;
    const bool accepted = mse_loss_grad::CheckDoutShape(Shape(predict, predict + predict_rank),
                                                        Shape(dout, dout + dout_rank), &scalar, &text);
    *scalar_dout = scalar ? 1 : 0;
    return Answer(accepted, text, ReasonBuffer{reason, reason_bytes});
}

}  // extern "C"
