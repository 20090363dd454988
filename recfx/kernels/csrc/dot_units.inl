// The products of a GEMM for each number format: a 32-bit unit of the input times one of the weights.
#pragma once
#include "simd.inl"

namespace recfx {
namespace {

struct DotF32 {
    using V = vf;
    static constexpr int64_t depth = 1;
    static constexpr bool rounds = false;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        float x;
        __builtin_memcpy(&x, &a, 4);
        return acc + x * load_as<vf>(b);
    }
};

#if RECFX_HAS_BF16
struct DotBF16 {
    using V = vf;
    static constexpr int64_t depth = 2;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int32_t(a)), (__m512bh)load_as<vi>(b));
    }
};
#else
// Weights and inputs are kept as the float32 values of their bfloat16 numbers.
struct DotBF16 : DotF32 {
    static constexpr bool rounds = true;
};
#endif

// `zero_signed` is added to inputs of -127..127 and `zero_unsigned` to those of 0..255, so that they fit the operand of the instruction. The
// column sums of the weights correct for it.
#if RECFX_HAS_VNNI
struct DotI8 {
    using V = vi;
    static constexpr int64_t depth = 4;
    static constexpr int32_t zero_signed = 128, zero_unsigned = 0;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        return (vi)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32(int32_t(a)), (__m512i)load_as<vi>(b));
    }
};
#elif RECFX_HAS_MADD512
struct DotI8 {
    using V = vi;
    static constexpr int64_t depth = 2;
    static constexpr int32_t zero_signed = 0, zero_unsigned = 0;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        return acc + (vi)_mm512_madd_epi16(_mm512_set1_epi32(int32_t(a)), (__m512i)load_as<vi>(b));
    }
};
#elif RECFX_HAS_MADD256
struct DotI8 {
    using V = vi;
    static constexpr int64_t depth = 2;
    static constexpr int32_t zero_signed = 0, zero_unsigned = 0;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        return acc + (vi)_mm256_madd_epi16(_mm256_set1_epi32(int32_t(a)), (__m256i)load_as<vi>(b));
    }
};
#elif RECFX_HAS_SDOT
struct DotI8 {
    using V = vi;
    static constexpr int64_t depth = 4;
    static constexpr int32_t zero_signed = 0, zero_unsigned = -128;
    static V step(V acc, uint32_t a, const uint32_t* b) {
        return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)load_as<vi>(b), (int8x16_t)splat(int32_t(a)));
    }
};
#else
struct DotI8 {
    using V = vi;
    static constexpr int64_t depth = 1;
    static constexpr int32_t zero_signed = 0, zero_unsigned = 0;
    static V step(V acc, uint32_t a, const uint32_t* b) { return acc + int32_t(a) * load_as<vi>(b); }
};
#endif

// `depth` small integers as one unit.
template <class D>
inline uint32_t unit_of_integers(const int32_t* q) {
    if constexpr (D::depth == 4)
        return uint32_t(uint8_t(q[0])) | uint32_t(uint8_t(q[1])) << 8 | uint32_t(uint8_t(q[2])) << 16 | uint32_t(uint8_t(q[3])) << 24;
    else if constexpr (D::depth == 2)
        return uint32_t(uint16_t(q[0])) | uint32_t(uint16_t(q[1])) << 16;
    else
        return uint32_t(q[0]);
}

// Number `i` of each of W units of integer weights.
template <class D>
inline vi integers_of(vi units, int64_t i) {
    constexpr int bits = 32 / int(D::depth);
    return (vi)((vu)units << uint32_t(32 - bits - bits * i)) >> (32 - bits);
}

}  // namespace
}  // namespace recfx
