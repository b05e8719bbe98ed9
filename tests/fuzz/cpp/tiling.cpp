// Fuzz target: tiling and inference of both operators, in the toolkit's contexts as tests/simulator has them. A launch
// is planned if and only if dtypes, shapes and attributes fit together, and inference then agrees.

#include <fuzzer/FuzzedDataProvider.h>

#include <cinttypes>
#include <cstring>
#include <limits>

#include "../../../op_host/mse_loss_grad_def.h"
#include "../../../op_host/mse_loss_grad_plan.h"
#include "exe_graph/runtime/infer_shape_context.h"
#include "exe_graph/runtime/tiling_context.h"
#include "require.h"
#include "tiling/platform/platform_ascendc.h"

namespace fe {

// The chip of a case, any.
class PlatFormInfos {
public:
    uint32_t cores;
    uint64_t ub_bytes;
};

}  // namespace fe

namespace platform_ascendc {

uint32_t PlatformAscendC::GetCoreNumAiv() const { return platform_->cores; }
void PlatformAscendC::GetCoreMemSize(const CoreMemType&, uint64_t& size) const { size = platform_->ub_bytes; }

}  // namespace platform_ascendc

namespace {

using fuzz::Require;
using mse_loss_grad::Reduction;
using Tensor = gert::TilingContext::Tensor;

constexpr uint64_t kLeastUbBytes = 196352;  // of the supported chips
constexpr size_t kMostRank = 8;
constexpr ge::DataType kDtypes[] = {ge::DT_FLOAT, ge::DT_FLOAT16, ge::DT_BF16};
constexpr int64_t kExtents[] = {0, 1, 2, 3, 255, 65536, 65537, int64_t{1} << 31, int64_t{1} << 32, INT64_MAX, -1, -2};

int64_t ConsumeExtent(FuzzedDataProvider* input) {
    switch (input->ConsumeIntegralInRange(0, 7)) {
        case 0:
            return input->ConsumeIntegral<int64_t>();
        case 1:
            return input->PickValueInArray(kExtents);
        default:
            return input->ConsumeIntegral<uint8_t>();
    }
}

gert::Shape ConsumeShape(FuzzedDataProvider* input) {
    gert::Shape shape;
    const size_t rank = input->ConsumeIntegralInRange<size_t>(0, 7) == 0 ? input->ConsumeIntegralInRange<size_t>(0, 25)
                                                                         : input->ConsumeIntegralInRange<size_t>(0, 4);
    for (size_t i = 0; i < rank; ++i) {
        shape.AppendDim(ConsumeExtent(input));
    }
    return shape;
}

ge::DataType ConsumeDtype(FuzzedDataProvider* input) {
    return input->ConsumeIntegralInRange(0, 15) == 0 ? static_cast<ge::DataType>(input->ConsumeIntegral<int8_t>())
                                                     : input->PickValueInArray(kDtypes);
}

Tensor Described(const gert::Shape& shape, ge::DataType dtype) {
    Tensor tensor;
    tensor.shape = gert::StorageShape(shape, shape);
    tensor.description.SetDataType(dtype);
    return tensor;
}

// Returns a tensor that mostly fits `predict`, or differs from it in one extent.
Tensor ConsumeCompanion(FuzzedDataProvider* input, const Tensor& predict) {
    gert::Shape shape = predict.shape.GetStorageShape();
    const int change = input->ConsumeIntegralInRange(0, 7);
    if (change == 0) {
        shape = ConsumeShape(input);
    } else if (change == 1 && shape.GetDimNum() > 0) {
        shape.SetDim(input->ConsumeIntegralInRange<size_t>(0, shape.GetDimNum() - 1),
                     input->PickValueInArray(kExtents));
    }
    const bool other_dtype = input->ConsumeIntegralInRange(0, 15) == 0;
    return Described(shape, other_dtype ? ConsumeDtype(input) : predict.description.GetDataType());
}

gert::RuntimeAttrs::Value ConsumeReduction(FuzzedDataProvider* input) {
    constexpr const char* kNames[] = {"none", "mean", "sum"};
    if (input->ConsumeIntegralInRange(0, 15) == 0) {
        return input->ConsumeRandomLengthString(8);
    }
    return std::string(input->PickValueInArray(kNames));
}

bool Equal(const gert::Shape& left, const gert::Shape& right) {
    if (left.GetDimNum() != right.GetDimNum()) {
        return false;
    }
    for (size_t i = 0; i < left.GetDimNum(); ++i) {
        if (left.GetDim(i) != right.GetDim(i)) {
            return false;
        }
    }
    return true;
}

bool Equal(const Tensor& left, const Tensor& right) {
    return Equal(left.shape.GetStorageShape(), right.shape.GetStorageShape()) &&
           left.description.GetDataType() == right.description.GetDataType();
}

// Returns the element count, or -1 if the shape is not allowed or counts more than 2^63 - 1.
int64_t CountOf(const gert::Shape& shape) {
    if (shape.GetDimNum() > kMostRank) {
        return -1;
    }
    bool empty = false;
    for (size_t i = 0; i < shape.GetDimNum(); ++i) {
        if (shape.GetDim(i) < 0) {
            return -1;
        }
        empty = empty || shape.GetDim(i) == 0;
    }
    __int128 count = empty ? 0 : 1;
    for (size_t i = 0; i < shape.GetDimNum() && !empty; ++i) {
        count *= shape.GetDim(i);
        if (count > std::numeric_limits<int64_t>::max()) {
            return -1;
        }
    }
    return static_cast<int64_t>(count);
}

// Whether dout is one element of rank 0 or 1, and not of the shape of predict.
bool IsScalar(const Tensor& predict, const Tensor& dout) {
    const gert::Shape& shape = dout.shape.GetStorageShape();
    const bool one = shape.GetDimNum() == 0 || (shape.GetDimNum() == 1 && shape.GetDim(0) == 1);
    return one && !Equal(shape, predict.shape.GetStorageShape());
}

bool FindReduction(const gert::RuntimeAttrs& attributes, Reduction* reduction) {
    const char* const text = attributes.GetStr(mse_loss_grad::kReductionAttribute);
    const char* const names[] = {"none", "mean", "sum"};
    for (int i = 0; i < 3; ++i) {
        if (std::strcmp(text == nullptr ? "mean" : text, names[i]) == 0) {
            *reduction = static_cast<Reduction>(i);
            return true;
        }
    }
    return false;
}

// Returns whether the tensors fit together by the rules of op_host/README.md.
bool Fit(const std::vector<Tensor>& inputs, const Tensor& y) {
    const Tensor& predict = inputs[0];
    const Tensor& dout = inputs[2];
    const ge::DataType dtype = predict.description.GetDataType();
    return (dtype == ge::DT_FLOAT || dtype == ge::DT_FLOAT16 || dtype == ge::DT_BF16) && Equal(predict, inputs[1]) &&
           Equal(predict, y) && dout.description.GetDataType() == dtype &&
           (Equal(predict, dout) || IsScalar(predict, dout)) && CountOf(predict.shape.GetStorageShape()) >= 0;
}

void CheckInference(const std::vector<Tensor>& inputs, bool fit) {
    std::vector<gert::Shape> shapes;
    std::vector<ge::DataType> dtypes;
    for (const Tensor& input : inputs) {
        shapes.push_back(input.shape.GetStorageShape());
        dtypes.push_back(input.description.GetDataType());
    }
    gert::InferShapeContext shape_context("fuzz", shapes, 1);
    gert::InferDataTypeContext dtype_context("fuzz", dtypes, 1);
    const bool shaped = mse_loss_grad::InferShape(&shape_context) == ge::GRAPH_SUCCESS;
    const bool typed = mse_loss_grad::InferDataType(&dtype_context) == ge::GRAPH_SUCCESS;
    Require(!fit || (shaped && typed), "inference refuses what tiling takes");
    Require(!shaped || Equal(*shape_context.GetOutputShape(0), shapes[0]), "y has not the shape of predict");
    Require(!typed || dtype_context.GetOutputDataType(0) == dtypes[0], "y has not the dtype of predict");
}

void CheckLaunch(const gert::TilingContext& context, const mse_loss_grad::Problem& problem) {
    MseLossGradTilingData expected;
    std::string reason;
    Require(mse_loss_grad::Plan(problem, &expected, &reason), "planned, although %s", reason.c_str());
    MseLossGradTilingData tiling;
    Require(context.TilingBytes().size() == sizeof(tiling), "%zu bytes of tiling", context.TilingBytes().size());
    std::memcpy(&tiling, context.TilingBytes().data(), sizeof(tiling));
    Require(tiling.elements == expected.elements && tiling.blocks == expected.blocks &&
                tiling.lines_per_block == expected.lines_per_block && tiling.extra_lines == expected.extra_lines &&
                tiling.tile_elements == expected.tile_elements && tiling.part_elements == expected.part_elements &&
                tiling.buffers == expected.buffers && tiling.coefficient == expected.coefficient,
            "the plan is another than that of %" PRId64 " elements", problem.elements);
    Require(context.GetBlockDim() == std::max(1u, tiling.blocks), "%u blocks start", context.GetBlockDim());
    Require(
        context.GetTilingKey() == (problem.scalar_dout ? MSE_LOSS_GRAD_KEY_SCALAR_DOUT : MSE_LOSS_GRAD_KEY_FULL_DOUT),
        "the key is %" PRIu64, context.GetTilingKey());
    Require(context.Workspaces() == std::vector<size_t>{0}, "a workspace is asked for");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FuzzedDataProvider input(data, size);
    const bool part = input.ConsumeBool();
    const Tensor predict = Described(ConsumeShape(&input), ConsumeDtype(&input));
    std::vector<Tensor> inputs = {predict, ConsumeCompanion(&input, predict), ConsumeCompanion(&input, predict)};
    if (input.ConsumeIntegralInRange(0, 3) == 0) {
        inputs[2] = Described(input.ConsumeBool() ? gert::Shape{1} : gert::Shape{}, predict.description.GetDataType());
    }
    const Tensor y = ConsumeCompanion(&input, predict);
    fe::PlatFormInfos platform;
    platform.cores =
        input.ConsumeIntegralInRange(0, 15) == 0 ? input.ConsumeIntegral<uint32_t>() : input.ConsumeIntegral<uint8_t>();
    platform.ub_bytes = input.ConsumeIntegralInRange(0, 15) == 0 ? input.ConsumeIntegral<uint64_t>() : kLeastUbBytes;
    const int64_t elements = CountOf(predict.shape.GetStorageShape());
    const int64_t numel = input.ConsumeBool() ? elements : input.ConsumeIntegral<int64_t>();
    std::vector<gert::RuntimeAttrs::Value> values = {ConsumeReduction(&input)};
    if (part) {
        values.emplace_back(numel);
    }
    if (input.ConsumeIntegralInRange(0, 31) == 0) {
        values.pop_back();
    }
    const gert::RuntimeAttrs attributes(values);

    gert::TilingContext context("fuzz", inputs, {y}, attributes, &platform);
    const bool planned =
        (part ? mse_loss_grad::TilingOfPart(&context) : mse_loss_grad::Tiling(&context)) == ge::GRAPH_SUCCESS;
    const bool fit = Fit(inputs, y);
    mse_loss_grad::Problem problem = mse_loss_grad::Problem();
    problem.elements = elements;
    problem.numel = part ? numel : elements;
    problem.item_bytes = predict.description.GetDataType() == ge::DT_FLOAT ? 4 : 2;
    problem.scalar_dout = IsScalar(predict, inputs[2]);
    problem.cores = platform.cores;
    problem.ub_bytes = platform.ub_bytes;
    const bool given = (!part || values.size() == 2) && FindReduction(attributes, &problem.reduction);
    const bool plannable = elements == 0 || (problem.numel >= 1 && platform.ub_bytes >= kLeastUbBytes &&
                                             elements <= std::numeric_limits<int64_t>::max() / problem.item_bytes);
    Require(!planned || (fit && given), "planned, although the arguments do not fit");
    Require(planned || !fit || !given || !plannable || platform.cores == 0, "refused, although the arguments fit");
    if (planned) {
        CheckLaunch(context, problem);
    }
    CheckInference(inputs, fit);
    return 0;
}
