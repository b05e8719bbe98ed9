// The variant for x86-64 with AVX2 and F16C.

#include <immintrin.h>

#include "fused_loop.h"

namespace mse_grad::cpu {
namespace {

struct Single {
    using Vector = __m256;
    static constexpr int64_t kLanes = 8;
    static constexpr bool kStreams = true;

    static Vector Broadcast(double c) { return _mm256_set1_ps(static_cast<float>(c)); }
    static void EndStreams() { _mm_sfence(); }
};

struct Float32 : Single {
    static constexpr int64_t kItemBytes = 4;

    static Vector Load(const unsigned char* from) { return _mm256_loadu_ps(reinterpret_cast<const float*>(from)); }
    static Vector LoadScalar(const unsigned char* from) {
        float value;
        std::memcpy(&value, from, sizeof(value));
        return _mm256_set1_ps(value);
    }
    static void Store(unsigned char* to, Vector y) { _mm256_storeu_ps(reinterpret_cast<float*>(to), y); }
    static void Stream(unsigned char* to, Vector y) { _mm256_stream_ps(reinterpret_cast<float*>(to), y); }
};

// Common code of the two 16-bit formats, which differ in Widen and Narrow.
template <class Bits>
struct SixteenBit : Single {
    static constexpr int64_t kItemBytes = 2;

    static Vector Load(const unsigned char* from) {
        return Bits::Widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static Vector LoadScalar(const unsigned char* from) {
        int16_t value;
        std::memcpy(&value, from, sizeof(value));
        return Bits::Widen(_mm_set1_epi16(value));
    }
    static void Store(unsigned char* to, Vector y) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), Bits::Narrow(y));
    }
    static void Stream(unsigned char* to, Vector y) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(to), Bits::Narrow(y));
    }
};

struct Float16 : SixteenBit<Float16> {
    static Vector Widen(__m128i bits) { return _mm256_cvtph_ps(bits); }
    static __m128i Narrow(Vector y) { return _mm256_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

struct Bfloat16 : SixteenBit<Bfloat16> {
    static Vector Widen(__m128i bits) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    static __m128i Narrow(Vector y) {
        const __m256i bits = _mm256_castps_si256(y);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(y, y, _CMP_UNORD_Q));
        const __m256i upper = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
        return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
    }
};

struct Float64 {
    using Vector = __m256d;
    static constexpr int64_t kLanes = 4;
    static constexpr int64_t kItemBytes = 8;
    static constexpr bool kStreams = true;

    static Vector Broadcast(double c) { return _mm256_set1_pd(c); }
    static Vector Load(const unsigned char* from) { return _mm256_loadu_pd(reinterpret_cast<const double*>(from)); }
    static Vector LoadScalar(const unsigned char* from) {
        double value;
        std::memcpy(&value, from, sizeof(value));
        return _mm256_set1_pd(value);
    }
    static void Store(unsigned char* to, Vector y) { _mm256_storeu_pd(reinterpret_cast<double*>(to), y); }
    static void Stream(unsigned char* to, Vector y) { _mm256_stream_pd(reinterpret_cast<double*>(to), y); }
    static void EndStreams() { _mm_sfence(); }
};

}  // namespace

const Variant kAvx2 = {Compute<Float32>, Compute<Float16>, Compute<Bfloat16>, Compute<Float64>};

}  // namespace mse_grad::cpu
