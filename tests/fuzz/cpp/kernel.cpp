// Fuzz target: MseLossGradCpu. The gradient has the bits of `reference.h`, no byte beside y is written, none beside the
// operands is read, arguments that the header excludes get their status, and the caller's floating-point environment
// neither changes the result nor is changed.

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cfenv>
#include <cinttypes>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "mse_loss_grad_cpu.h"
#include "reference.h"
#include "require.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

using fuzz::Require;

constexpr size_t kAlignment = 64;
constexpr unsigned char kCanary = 0xa5;
// Past the size at which this build streams its stores, for every dtype: campaign.py lowers that size to 1 KiB.
constexpr int64_t kMostElements = 700;

// A tensor that ends where its allocation ends, so that the sanitizer sees each access past it.
class Memory {
public:
    Memory(size_t size_bytes, size_t misalignment) : misalignment_(misalignment), size_bytes_(size_bytes) {
        void* whole = nullptr;
        Require(posix_memalign(&whole, kAlignment, misalignment + size_bytes) == 0, "no memory");
        whole_.reset(static_cast<unsigned char*>(whole));
        std::fill(whole_.get(), whole_.get() + misalignment + size_bytes, kCanary);
    }

    unsigned char* get() const { return whole_.get() + misalignment_; }
    size_t size_bytes() const { return size_bytes_; }

    // Whether the bytes before the tensor are as they were.
    bool IntactBefore() const {
        return std::all_of(whole_.get(), get(), [](unsigned char byte) { return byte == kCanary; });
    }
    bool Untouched() const {
        return std::all_of(whole_.get(), get() + size_bytes_, [](unsigned char byte) { return byte == kCanary; });
    }

private:
    const size_t misalignment_;
    const size_t size_bytes_;
    std::unique_ptr<unsigned char, decltype(&std::free)> whole_{nullptr, &std::free};
};

// Returns a value near a border: of the exponents, of the fractions, or of the rounding.
template <class Format>
typename Format::Bits Edge(std::mt19937_64* random) {
    using Bits = typename Format::Bits;
    constexpr int kBits = 8 * sizeof(Bits);
    constexpr Bits kFractions = (Bits{1} << Format::kFractionBits) - 1;
    constexpr Bits kMaxExponent = (Bits{1} << (kBits - 1 - Format::kFractionBits)) - 1;
    const Bits exponents[] = {0,
                              1,
                              Bits(kMaxExponent / 2 - Format::kFractionBits),
                              kMaxExponent / 2 - 1,
                              kMaxExponent / 2,
                              kMaxExponent / 2 + 1,
                              kMaxExponent - 1,
                              kMaxExponent};
    const Bits half = Bits{1} << (Format::kFractionBits - 1);
    const Bits fractions[] = {0, 1, 2, half - 1, half, half + 1, kFractions - 1, kFractions};
    const uint64_t choice = (*random)();
    const Bits sign = Bits(choice >> 63) << (kBits - 1);
    return Bits(sign | (exponents[choice & 7] << Format::kFractionBits) | fractions[choice >> 3 & 7]);
}

enum class Content { kRaw, kRandom, kEdges, kMaxValue = kEdges };  // the last name is FuzzedDataProvider's

struct Case {
    int32_t variant;
    int32_t dtype;
    int64_t n;
    double c;
    bool scalar_dout;
    uint32_t environment;  // MXCSR, or the rounding of <cfenv>
};

template <class Format>
void Fill(const Memory& tensor, Content content, const std::vector<uint8_t>& raw, std::mt19937_64* random) {
    using Bits = typename Format::Bits;
    for (size_t at = 0; at < tensor.size_bytes(); at += sizeof(Bits)) {
        Bits bits = static_cast<Bits>((*random)());
        if (content == Content::kEdges) {
            bits = Edge<Format>(random);
        } else if (content == Content::kRaw && !raw.empty()) {
            for (size_t i = 0; i < sizeof(Bits); ++i) {
                reinterpret_cast<unsigned char*>(&bits)[i] = raw[(at + i) % raw.size()];
            }
        }
        std::memcpy(tensor.get() + at, &bits, sizeof(bits));
    }
}

// Calls the kernel in the environment of the case, and requires that it finds the same environment afterwards.
int32_t CallIn(const Case& given, const void* predict, const void* label, const void* dout, void* y) {
#if defined(__x86_64__)
    const uint32_t own = _mm_getcsr();
    _mm_setcsr(given.environment & 0xffff);
    const int32_t status = MseLossGradCpu(given.variant, given.dtype, given.n, given.c, given.scalar_dout ? 1 : 0,
                                          predict, label, dout, y);
    const uint32_t after = _mm_getcsr();
    _mm_setcsr(own);
    Require(after == (given.environment & 0xffff), "MXCSR was %x, is %x", given.environment & 0xffff, after);
#else
    constexpr int kRoundings[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    const int rounding = kRoundings[given.environment & 3];
    std::fesetround(rounding);
    const int32_t status = MseLossGradCpu(given.variant, given.dtype, given.n, given.c, given.scalar_dout ? 1 : 0,
                                          predict, label, dout, y);
    const int after = std::fegetround();
    std::fesetround(FE_TONEAREST);
    Require(after == rounding, "the rounding was %d, is %d", rounding, after);
#endif
    return status;
}

template <class Format>
typename Format::Bits ElementOf(const unsigned char* tensor, int64_t index) {
    typename Format::Bits bits;
    std::memcpy(&bits, tensor + index * static_cast<int64_t>(sizeof(bits)), sizeof(bits));
    return bits;
}

template <class Format>
void Check(const Case& given, FuzzedDataProvider* input) {
    const auto misalignment = [input] { return input->ConsumeIntegralInRange<size_t>(0, kAlignment - 1); };
    const auto content = [input] { return input->ConsumeEnum<Content>(); };
    constexpr size_t kItemBytes = sizeof(typename Format::Bits);
    const size_t size_bytes = static_cast<size_t>(given.n) * kItemBytes;
    const Memory predict(size_bytes, misalignment());
    const Memory other_label(size_bytes, misalignment());
    const Memory dout(given.scalar_dout ? kItemBytes : size_bytes, misalignment());
    const Memory y(size_bytes, misalignment());
    const Content contents[] = {content(), content(), content()};
    const bool same_operand = input->ConsumeBool();
    std::mt19937_64 random(input->ConsumeIntegral<uint64_t>());
    const std::vector<uint8_t> raw = input->ConsumeRemainingBytes<uint8_t>();
    Fill<Format>(predict, contents[0], raw, &random);
    Fill<Format>(other_label, contents[1], raw, &random);
    Fill<Format>(dout, contents[2], raw, &random);
    const Memory& label = same_operand ? predict : other_label;

    const int32_t status = CallIn(given, predict.get(), label.get(), dout.get(), y.get());
    Require(status == MSE_LOSS_GRAD_CPU_OK, "status %d", status);
    Require(y.IntactBefore(), "bytes before y were written");
    for (int64_t i = 0; i < given.n; ++i) {
        const auto expected =
            fuzz::Gradient<Format>(ElementOf<Format>(predict.get(), i), ElementOf<Format>(label.get(), i), given.c,
                                   ElementOf<Format>(dout.get(), given.scalar_dout ? 0 : i));
        const auto got = ElementOf<Format>(y.get(), i);
        Require(fuzz::SameBits<Format>(got, expected),
                "element %" PRId64 " of %" PRId64 " has bits %" PRIx64 ", not %" PRIx64 "; variant %d, dtype %d", i,
                given.n, static_cast<uint64_t>(got), static_cast<uint64_t>(expected), given.variant, given.dtype);
    }
}

bool Runs(int32_t variant) {
    return variant >= 0 && variant <= MSE_LOSS_GRAD_CPU_AVX512 && (MseLossGradCpuVariants() >> variant & 1) != 0;
}

bool IsDtype(int32_t dtype) { return dtype >= MSE_LOSS_GRAD_CPU_FLOAT32 && dtype <= MSE_LOSS_GRAD_CPU_FLOAT64; }

// Arguments that are not allowed, and no elements: nothing is read, not even through null, and nothing is written.
void CheckUntouched(const Case& given, FuzzedDataProvider* input) {
    const Memory tensor(64, 0);
    void* const operand = input->ConsumeBool() ? tensor.get() : nullptr;
    const int32_t expected = !Runs(given.variant)    ? MSE_LOSS_GRAD_CPU_UNAVAILABLE_VARIANT
                             : !IsDtype(given.dtype) ? MSE_LOSS_GRAD_CPU_UNKNOWN_DTYPE
                             : given.n < 0           ? MSE_LOSS_GRAD_CPU_NEGATIVE_COUNT
                                                     : MSE_LOSS_GRAD_CPU_OK;
    const int32_t status = CallIn(given, operand, operand, operand, operand);
    Require(status == expected, "status %d, not %d; variant %d, dtype %d, n %" PRId64, status, expected, given.variant,
            given.dtype, given.n);
    Require(tensor.Untouched(), "bytes were written");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    FuzzedDataProvider input(data, size);
    Case given;
    given.variant = input.PickValueInArray({0, 1, 2, 3});
    while (!Runs(given.variant)) {
        --given.variant;  // the portable one, 0, runs everywhere
    }
    given.dtype = input.ConsumeIntegralInRange<int32_t>(MSE_LOSS_GRAD_CPU_FLOAT32, MSE_LOSS_GRAD_CPU_FLOAT64);
    given.n = input.ConsumeIntegralInRange<int64_t>(0, kMostElements);
    given.scalar_dout = input.ConsumeBool();
    given.environment = input.ConsumeIntegral<uint32_t>();
    switch (input.ConsumeIntegralInRange(0, 7)) {
        case 0:
            given.c = fuzz::BitCast<double>(input.ConsumeIntegral<uint64_t>());
            break;
        case 1:
            given.c = 2;
            break;
        default:
            given.c = 2.0 / input.ConsumeIntegralInRange<int64_t>(1, INT64_MAX);
    }
    if (input.ConsumeIntegralInRange(0, 15) == 0) {
        given.variant = input.ConsumeBool() ? input.ConsumeIntegral<int32_t>() : given.variant;
        given.dtype = input.ConsumeBool() ? input.ConsumeIntegral<int32_t>() : given.dtype;
        given.n = input.ConsumeBool() ? input.ConsumeIntegralInRange<int64_t>(INT64_MIN, -1) : given.n;
    }
    if (!Runs(given.variant) || !IsDtype(given.dtype) || given.n <= 0) {
        CheckUntouched(given, &input);
        return 0;
    }
    switch (given.dtype) {
        case MSE_LOSS_GRAD_CPU_FLOAT32:
            Check<fuzz::Float32>(given, &input);
            break;
        case MSE_LOSS_GRAD_CPU_FLOAT16:
            Check<fuzz::Float16>(given, &input);
            break;
        case MSE_LOSS_GRAD_CPU_BFLOAT16:
            Check<fuzz::Bfloat16>(given, &input);
            break;
        default:
            Check<fuzz::Float64>(given, &input);
    }
    return 0;
}
