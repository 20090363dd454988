// Vectors of W lanes in the compiler's own vector extension, so that one source serves every level.
#pragma once
#include <cstdint>

#include "half.inl"

namespace recfx {
namespace {

constexpr int W = RECFX_LANES;
typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));

template <class V, class T>
inline V load_as(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline vf load(const float* p) { return load_as<vf>(p); }
inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
inline vf splat(float x) { return x - vf{}; }  // x + 0 would turn -0 into 0, and would not be optimised away
inline vi splat(int32_t x) { return vi{} + x; }

// The first n < W lanes, the rest zero.
#if RECFX_LANES == 16
inline vf load_some(const float* p, int64_t n) { return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p); }
inline void store_some(float* p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v); }
#else
inline vf load_some(const float* p, int64_t n) {
    vf v = {};
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
}
inline void store_some(float* p, vf v, int64_t n) {
    alignas(64) float lanes[W];
    __builtin_memcpy(lanes, &v, sizeof v);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}
#endif

// The lanes `which` of `a` and `b` joined. `which` is constant once the surrounding loops are unrolled.
inline vf lanes_of(vf a, vf b, vi which) {
#if defined(__clang__)
    vf v;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) v[i] = which[i] < W ? a[which[i]] : b[which[i] - W];
    return v;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

// W rows of W floats, `from_row` apart, transposed: column j of the rows becomes row j, `to_row` apart. If there are only `rows` rows, the last of
// them replaces the others.
inline void turn(const float* from, int64_t from_row, float* to, int64_t to_row, int64_t rows = W) {
    const float* row[W];
    for (int i = 0; i < W; ++i) row[i] = from + (i < rows ? i : rows - 1) * from_row;
#if RECFX_LANES == 16
    // Quarters of four rows into one vector while loading, then twice pairs within quarters: half the shuffles of four rounds of pairs.
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
        __m512 v[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            v[i] = _mm512_castps128_ps512(_mm_loadu_ps(row[i] + 4 * q));
            v[i] = _mm512_mask_broadcast_f32x4(v[i], 0x00f0, _mm_loadu_ps(row[i + 4] + 4 * q));
            v[i] = _mm512_mask_broadcast_f32x4(v[i], 0x0f00, _mm_loadu_ps(row[i + 8] + 4 * q));
            v[i] = _mm512_mask_broadcast_f32x4(v[i], 0xf000, _mm_loadu_ps(row[i + 12] + 4 * q));
        }
        const __m512d a = (__m512d)_mm512_unpacklo_ps(v[0], v[1]), b = (__m512d)_mm512_unpackhi_ps(v[0], v[1]);
        const __m512d c = (__m512d)_mm512_unpacklo_ps(v[2], v[3]), d = (__m512d)_mm512_unpackhi_ps(v[2], v[3]);
        const __m512 column[4] = {(__m512)_mm512_unpacklo_pd(a, c), (__m512)_mm512_unpackhi_pd(a, c), (__m512)_mm512_unpacklo_pd(b, d),
                                  (__m512)_mm512_unpackhi_pd(b, d)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) _mm512_storeu_ps(to + (4 * q + i) * to_row, column[i]);
    }
#elif RECFX_LANES > 1
    vf v[W];
    for (int i = 0; i < W; ++i) v[i] = load(row[i]);
#pragma GCC unroll 4
    for (int step = 1; step < W; step *= 2) {
        vf next[W];
        vi low, high;
        for (int lane = 0; lane < W; ++lane) {
            const bool upper = lane & step;
            low[lane] = upper ? W + lane - step : lane;
            high[lane] = upper ? W + lane : lane + step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) {
            const int j = i & ~step;
            next[i] = lanes_of(v[j], v[j + step], i & step ? high : low);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) v[i] = next[i];
    }
    for (int i = 0; i < W; ++i) store(to + i * to_row, v[i]);
#else
    to[0] = row[0][0];
    (void)to_row;
#endif
}

// `b` where either is NaN.
#if RECFX_LANES == 16
inline vf max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
inline vf min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#else
inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vf min(vf a, vf b) { return a < b ? a : b; }
#endif
inline vf as_float(vi v) { return (vf)v; }
inline vi as_int(vf v) { return (vi)v; }
inline vf to_float(vi v) { return __builtin_convertvector(v, vf); }
inline vi to_int(vf v) { return __builtin_convertvector(v, vi); }
inline vf magnitude(vf v) { return as_float(as_int(v) & 0x7fffffff); }

// Nearest integer, ties to even, for |v| < 2^22.
inline vf round_even(vf v) {
    const vf shift = splat(12582912.0f);
    return (v + shift) - shift;
}

// As integers, for |v| < 2^22: the low bits of the shifted number.
inline vi round_to_int(vf v) {
    const vf shift = splat(12582912.0f);
    return as_int(v + shift) - as_int(shift);
}

inline float sum_lanes(vf v) {
    alignas(64) float lanes[W];
    __builtin_memcpy(lanes, &v, sizeof v);
    for (int half = W / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}
inline float max_lanes(vf v) {
#if RECFX_LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float best = v[0];
    for (int i = 1; i < W; ++i) best = v[i] > best ? v[i] : best;
    return best;
}

// Rounds to bfloat16, ties to even; the result's low 16 bits are zero. NaN stays NaN.
inline uint32_t bf16_bits(float f) {
    uint32_t bits;
    __builtin_memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (bits | 0x400000) & 0xffff0000;
    return (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
}

}  // namespace
}  // namespace recfx
