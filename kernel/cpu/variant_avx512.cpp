// The variant for x86-64 with AVX-512 F.

// GCC 12 warns of its own _mm512_undefined_epi32: https://gcc.gnu.org/PR105593
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include "fused_loop.h"

namespace mse_grad::cpu {
namespace {

struct Single {
    using Vector = __m512;
    static constexpr int64_t kLanes = 16;
    static constexpr bool kStreams = true;

    static Vector Broadcast(double c) { return _mm512_set1_ps(static_cast<float>(c)); }
    static void EndStreams() { _mm_sfence(); }
};

struct Float32 : Single {
    static constexpr int64_t kItemBytes = 4;

    static Vector Load(const unsigned char* from) { return _mm512_loadu_ps(from); }
    static Vector LoadScalar(const unsigned char* from) {
        float value;
        std::memcpy(&value, from, sizeof(value));
        return _mm512_set1_ps(value);
    }
    static void Store(unsigned char* to, Vector y) { _mm512_storeu_ps(to, y); }
    static void Stream(unsigned char* to, Vector y) { _mm512_stream_ps(reinterpret_cast<float*>(to), y); }
};

// Common code of the two 16-bit formats, which differ in Widen and Narrow.
template <class Bits>
struct SixteenBit : Single {
    static constexpr int64_t kItemBytes = 2;

    static Vector Load(const unsigned char* from) {
        return Bits::Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static Vector LoadScalar(const unsigned char* from) {
        int16_t value;
        std::memcpy(&value, from, sizeof(value));
        return Bits::Widen(_mm256_set1_epi16(value));
    }
    static void Store(unsigned char* to, Vector y) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), Bits::Narrow(y));
    }
    static void Stream(unsigned char* to, Vector y) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to), Bits::Narrow(y));
    }
};

struct Float16 : SixteenBit<Float16> {
    static Vector Widen(__m256i bits) { return _mm512_cvtph_ps(bits); }
    static __m256i Narrow(Vector y) { return _mm512_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

struct Bfloat16 : SixteenBit<Bfloat16> {
    static Vector Widen(__m256i bits) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    // Integer arithmetic, because VCVTNEPS2BF16 flushes subnormals to zero whatever MXCSR says.
    static __m256i Narrow(Vector y) {
        const __m512i bits = _mm512_castps_si512(y);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        const __mmask16 nan = _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
        const __m512i quiet = _mm512_set1_epi32(0x7fc0);
        return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, quiet));
    }
};

struct Float64 {
    using Vector = __m512d;
    static constexpr int64_t kLanes = 8;
    static constexpr int64_t kItemBytes = 8;
    static constexpr bool kStreams = true;

    static Vector Broadcast(double c) { return _mm512_set1_pd(c); }
    static Vector Load(const unsigned char* from) { return _mm512_loadu_pd(from); }
    static Vector LoadScalar(const unsigned char* from) {
        double value;
        std::memcpy(&value, from, sizeof(value));
        return _mm512_set1_pd(value);
    }
    static void Store(unsigned char* to, Vector y) { _mm512_storeu_pd(to, y); }
    static void Stream(unsigned char* to, Vector y) { _mm512_stream_pd(reinterpret_cast<double*>(to), y); }
    static void EndStreams() { _mm_sfence(); }
};

}  // namespace

const Variant kAvx512 = {Compute<Float32>, Compute<Float16>, Compute<Bfloat16>, Compute<Float64>};

}  // namespace mse_grad::cpu
