// Vectors of 32-bit lanes, one item a lane: counting bits, and steps of a dot product.
#pragma once
#include "half.inl"
#include "retrieval.h"

namespace recfx {
namespace {

constexpr int L = RECFX_LANES;
constexpr int PARTS = int(BLOCK) / L;
typedef int32_t vi __attribute__((vector_size(L * 4)));
typedef uint32_t vu __attribute__((vector_size(L * 4)));
typedef float vf __attribute__((vector_size(L * 4)));

template <class V, class T>
inline V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline vu splat(uint32_t x) { return vu{} + x; }

// Bit i of the result: lane i exceeds the limit.
#if RECFX_LANES == 16
inline uint32_t above(vi values, int32_t limit) { return _mm512_cmpgt_epi32_mask((__m512i)values, _mm512_set1_epi32(limit)); }
inline uint32_t above(vf values, float limit) { return _mm512_cmp_ps_mask((__m512)values, _mm512_set1_ps(limit), _CMP_GT_OQ); }
#else
inline uint32_t mask_of(vi truth) {
#if defined(__AVX2__)
    return uint32_t(_mm256_movemask_ps((__m256)truth));
#elif defined(__SSE2__)
    return uint32_t(_mm_movemask_ps((__m128)truth));
#elif defined(__ARM_NEON)
    return vaddvq_u32((uint32x4_t)((vu)truth & vu{1, 2, 4, 8}));
#else
    uint32_t mask = 0;
    for (int i = 0; i < L; ++i) mask |= uint32_t(truth[i] != 0) << i;
    return mask;
#endif
}
inline uint32_t above(vi values, int32_t limit) { return mask_of(values > limit); }
inline uint32_t above(vf values, float limit) { return mask_of(values > limit); }
#endif

// `counts` counts the bits of each lane in parts. The counts of WORDS_BEFORE_SUM words can be added before `sum` adds the parts.
#if defined(__AVX512VPOPCNTDQ__)
constexpr int64_t WORDS_BEFORE_SUM = INT64_MAX;
inline vu counts(vu v) { return (vu)_mm512_popcnt_epi32((__m512i)v); }
inline vi sum(vu v) { return (vi)v; }
#else
constexpr int64_t WORDS_BEFORE_SUM = 31;  // at most 8 bits a byte and word
#if RECFX_LANES == 16
inline vu counts(vu v) {
    const __m512i of_nibble = _mm512_maskz_broadcast_i32x4(0xffff, _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_and_si512((__m512i)v, _mm512_set1_epi8(15));
    const __m512i high = _mm512_and_si512((__m512i)(v >> 4), _mm512_set1_epi8(15));
    return (vu)_mm512_add_epi8(_mm512_shuffle_epi8(of_nibble, low), _mm512_shuffle_epi8(of_nibble, high));
}
#elif defined(__AVX2__)
inline vu counts(vu v) {
    const __m256i of_nibble = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_and_si256((__m256i)v, _mm256_set1_epi8(15));
    const __m256i high = _mm256_and_si256((__m256i)(v >> 4), _mm256_set1_epi8(15));
    return (vu)_mm256_add_epi8(_mm256_shuffle_epi8(of_nibble, low), _mm256_shuffle_epi8(of_nibble, high));
}
#elif defined(__ARM_NEON)
inline vu counts(vu v) { return (vu)vcntq_u8((uint8x16_t)v); }
#else
inline vu counts(vu v) {
    v = v - ((v >> 1) & 0x55555555u);
    v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
    return (v + (v >> 4)) & 0x0f0f0f0fu;
}
#endif
inline vi sum(vu v) {
    v = (v & 0x00ff00ffu) + ((v >> 8) & 0x00ff00ffu);
    return (vi)((v & 0xffffu) + (v >> 16));
}
#endif

// `depth` codes of each lane, as they lie in `v >> shift`, times as many numbers of the query.
#if defined(__AVX512VNNI__)
struct Dot {
    static constexpr int depth = 4;
    static constexpr uint32_t ones = 0x01010101u;  // where the codes of a step begin
    static vi step(vi acc, vu codes, uint32_t query) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, (__m512i)splat(query)); }
};
#elif RECFX_LANES == 16
struct Dot {
    static constexpr int depth = 2;
    static constexpr uint32_t ones = 0x00010001u;
    static vi step(vi acc, vu codes, uint32_t query) { return acc + (vi)_mm512_madd_epi16((__m512i)codes, (__m512i)splat(query)); }
};
#elif defined(__AVX2__)
struct Dot {
    static constexpr int depth = 2;
    static constexpr uint32_t ones = 0x00010001u;
    static vi step(vi acc, vu codes, uint32_t query) { return acc + (vi)_mm256_madd_epi16((__m256i)codes, (__m256i)splat(query)); }
};
#elif defined(__SSE2__)
struct Dot {
    static constexpr int depth = 2;
    static constexpr uint32_t ones = 0x00010001u;
    static vi step(vi acc, vu codes, uint32_t query) { return acc + (vi)_mm_madd_epi16((__m128i)codes, (__m128i)splat(query)); }
};
#elif defined(__ARM_NEON)
struct Dot {
    static constexpr int depth = 2;
    static constexpr uint32_t ones = 0x00010001u;
    static vi step(vi acc, vu codes, uint32_t query) {
        const int16x8_t a = (int16x8_t)codes, b = (int16x8_t)splat(query);
        const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
        return acc + (vi)vpaddq_s32(low, vmull_high_s16(a, b));
    }
};
#else
struct Dot {
    static constexpr int depth = 1;
    static constexpr uint32_t ones = 1;
    static vi step(vi acc, vu codes, uint32_t query) { return acc + (vi)(codes * query); }
};
#endif

inline float real(float x) { return x; }
inline float real(uint16_t half) { return half_to_float(half); }

}  // namespace
}  // namespace recfx
