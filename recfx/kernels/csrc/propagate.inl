// One layer of a graph propagation: sums of gathered rows of the layer before, in compressed sparse rows.
//
// Stored rows are already scaled by D^-1/2, so that edges need no weights: a row of the next layer is
// s^2 * sum + s * w * x, one of the result s * sum + w * x.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

constexpr int64_t NEIGHBOURS_AHEAD = 16;  // gathered rows that are prefetched

// W stored values from p, as float32.
inline vf kept(const float* p) { return load(p); }
inline vf kept(const uint16_t* p) {
#if RECFX_LANES == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#else
    vu bits;
    for (int i = 0; i < W; ++i) bits[i] = uint32_t(p[i]) << 16;
    return (vf)bits;
#endif
}
inline vf kept_some(const float* p, int64_t n) { return load_some(p, n); }
inline vf kept_some(const uint16_t* p, int64_t n) {
    vu bits = {};
    for (int64_t i = 0; i < n; ++i) bits[i] = uint32_t(p[i]) << 16;
    return (vf)bits;
}

inline void keep(float* p, vf v) { store(p, v); }
inline void keep(uint16_t* p, vf v) {
#if RECFX_HAS_BF16
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    __builtin_memcpy(p, &rounded, sizeof rounded);
#else
    for (int i = 0; i < W; ++i) p[i] = uint16_t(bf16_bits(v[i]) >> 16);
#endif
}
inline void keep_some(float* p, vf v, int64_t n) { store_some(p, v, n); }
inline void keep_some(uint16_t* p, vf v, int64_t n) {
    for (int64_t i = 0; i < n; ++i) p[i] = uint16_t(bf16_bits(v[i]) >> 16);
}

// N vectors from column c of one row: y = by_sum * (sum of the neighbours' rows) + by_x * x.
template <int N, class From, class To>
inline void gather_sum(const From* from, const int32_t* first, const int32_t* last, const int32_t* end, int64_t columns, int64_t c, float by_sum,
                       float by_x, const float* x, To* to) {
    vf sum[N] = {};
    for (const int32_t* e = first; e < last; ++e) {
        if (end - e > NEIGHBOURS_AHEAD) {
            const auto* ahead = reinterpret_cast<const char*>(from + int64_t(e[NEIGHBOURS_AHEAD]) * columns + c);
#pragma GCC unroll 8
            for (int b = 0; b < N * W * int(sizeof(From)); b += 64) __builtin_prefetch(ahead + b);
        }
        const From* row = from + int64_t(*e) * columns + c;
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) sum[i] += kept(row + i * W);
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) keep(to + c + i * W, sum[i] * by_sum + load(x + c + i * W) * by_x);
}

// The same for rows of less than a vector.
template <class From, class To>
inline void gather_few(const From* from, const int32_t* first, const int32_t* last, int64_t columns, float by_sum, float by_x, const float* x, To* to) {
    vf sum = {};
    for (const int32_t* e = first; e < last; ++e) sum += kept_some(from + int64_t(*e) * columns, columns);
    keep_some(to, sum * by_sum + load_some(x, columns) * by_x, columns);
}

template <class From, class To>
void layer_rows(const Propagation& p, const From* from, To* to, float weight, bool last_layer, int64_t begin, int64_t end) {
    const int32_t* all = p.neighbours + p.offsets[p.rows];
    for (int64_t r = begin; r < end; ++r) {
        const int32_t *first = p.neighbours + p.offsets[r], *last = p.neighbours + p.offsets[r + 1];
        const float s = p.scale[r], by_sum = last_layer ? s : s * s, by_x = last_layer ? weight : s * weight;
        const float* x = p.x + r * p.columns;
        To* out = to + r * p.columns;
        int64_t c = 0;
        for (; c + 8 * W <= p.columns; c += 8 * W) gather_sum<8>(from, first, last, all, p.columns, c, by_sum, by_x, x, out);
        if (c + 4 * W <= p.columns) gather_sum<4>(from, first, last, all, p.columns, c, by_sum, by_x, x, out), c += 4 * W;
        if (c + 2 * W <= p.columns) gather_sum<2>(from, first, last, all, p.columns, c, by_sum, by_x, x, out), c += 2 * W;
        if (c + W <= p.columns) gather_sum<1>(from, first, last, all, p.columns, c, by_sum, by_x, x, out), c += W;
        if (c == p.columns) continue;
        // The last vector overlaps the one before: common columns are computed twice, with the same result.
        if (c) gather_sum<1>(from, first, last, all, p.columns, p.columns - W, by_sum, by_x, x, out);
        else gather_few(from, first, last, p.columns, by_sum, by_x, x, out);
    }
}

// The rows that the first layer gathers: s * weight * x; without any layer the result, weight * x.
template <class To>
void first_rows(const Propagation& p, To* to, float weight, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
        const float by = p.layers ? p.scale[r] * weight : weight;
        int64_t c = 0;
        for (; c + W <= p.columns; c += W) keep(to + r * p.columns + c, load(p.x + r * p.columns + c) * by);
        if (c < p.columns) keep_some(to + r * p.columns + c, load_some(p.x + r * p.columns + c, p.columns - c) * by, p.columns - c);
    }
}

// Rows [begin, end) of layer `layer`: 0 scales x, the last one writes the result.
void propagate(const Propagation& p, int64_t layer, int64_t begin, int64_t end) {
    const bool last = layer == p.layers;
    const float weight = p.weights[p.layers - layer];
    if (layer == 0) return p.halved && !last ? first_rows(p, p.half_of(0), weight, begin, end) : first_rows(p, p.full_of(0), weight, begin, end);
    if (!p.halved) return layer_rows(p, p.full_of(layer - 1), p.full_of(layer), weight, last, begin, end);
    if (last) return layer_rows(p, p.half_of(layer - 1), p.out, weight, last, begin, end);
    layer_rows(p, p.half_of(layer - 1), p.half_of(layer), weight, last, begin, end);
}

}  // namespace
}  // namespace recfx
