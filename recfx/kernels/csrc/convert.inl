// Input rows of a GEMM as 32-bit units.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dot_units.inl"
#include "functions.inl"

namespace recfx {
namespace {

// float32 as it is, or rounded to bfloat16 (two to a unit where the level multiplies pairs).
template <class D>
inline void row_units(const float* x, int64_t k, int64_t units, uint32_t* to) {
    if constexpr (D::depth == 1) {
        if constexpr (D::rounds)
            for (int64_t i = 0; i < k; ++i) to[i] = bf16_bits(x[i]);
        else
            __builtin_memcpy(to, x, size_t(k) * 4);
    } else {
        const int64_t whole = k / 2;
        int64_t u = 0;
#if RECFX_HAS_BF16
        for (; 2 * u + 2 * W <= k; u += W) {
            const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)load(x + 2 * u + W), (__m512)load(x + 2 * u));
            __builtin_memcpy(to + u, &pairs, 64);
        }
#endif
        for (; u < whole; ++u) to[u] = bf16_bits(x[2 * u]) >> 16 | bf16_bits(x[2 * u + 1]);
        if (whole < units) to[whole] = bf16_bits(x[2 * whole]) >> 16;
    }
}

// The lowest and the highest number of a row, and whether all are finite; if not, low and high are undefined.
struct RowRange {
    float low, high;
    bool finite;
};

inline RowRange range_of(const float* x, int64_t k) {
    vf lows = splat(k > 0 ? x[0] : 0.0f), highs = lows, zeros = {};
    auto see = [&](vf v) {
        lows = min(lows, v);
        highs = max(highs, v);
        zeros = zeros + v * 0.0f;  // NaN for infinities and NaN
    };
    int64_t i = 0;
    for (; i + W <= k; i += W) see(load(x + i));
    float low = -max_lanes(-lows), high = max_lanes(highs);
    if (i < k) zeros = zeros + load_some(x + i, k - i) * 0.0f;
    for (; i < k; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    return {low, high, !any(zeros != zeros)};
}

// The conversion of a row to integers: round(x * lift * inverse); an integer times `scale` is about x.
struct RowCodes {
    float scale, lift, inverse, limit;
    int32_t zero;
};

// A denormal scale has few bits. It is rounded up, so that no integer exceeds its range, and the integers are computed with the rounded scale.
inline RowCodes codes_of_small(float span, float levels, int32_t zero) {
    float scale = span / levels;
    if (scale * levels < span) scale += __FLT_DENORM_MIN__;
    return {scale, 0x1p64f, 1.0f / (scale * 0x1p64f), levels, zero};
}

// The scale is the calibrated one, or the row's own: 0..255 when nothing is negative, otherwise -127..127. Rows of zeros have the scale 0.
template <class D>
inline RowCodes codes_of(const RowRange& range, float calibrated) {
    if (calibrated > 0) return {calibrated, 1.0f, 1 / calibrated, 127.0f, D::zero_signed};
    const bool negative = range.low < 0;
    const float span = range.high > -range.low ? range.high : -range.low, levels = negative ? 127.0f : 255.0f;
    const int32_t zero = negative ? D::zero_signed : D::zero_unsigned;
    if (__builtin_expect(span > 0 && span / levels < __FLT_MIN__, 0)) return codes_of_small(span, levels, zero);
    return {span / levels, 1.0f, span > 0 ? levels / span : 0.0f, levels, zero};
}

// Returns whether all numbers are finite, if it is to check this.
template <class D, bool Lifted, bool Checks = false>
inline bool write_codes(const float* x, int64_t k, int64_t units, const RowCodes& codes, uint32_t* to) {
    const vf limit = splat(codes.limit);
    vf zeros = {};
    auto lanes = [&](vf v) {
        if constexpr (Checks) zeros = zeros + v * 0.0f;  // NaN for infinities and NaN
        if constexpr (Lifted) v = v * codes.lift;
        return round_to_int(max(min(v * codes.inverse, limit), -limit)) + codes.zero;
    };
    alignas(64) int32_t q[W] = {};
    int64_t i = 0;
    for (; i + W <= k; i += W) {
        const vi v = lanes(load(x + i));
#if RECFX_HAS_VNNI
        const __m128i bytes = _mm512_cvtepi32_epi8((__m512i)v);
        __builtin_memcpy(to + i / 4, &bytes, 16);
#else
        __builtin_memcpy(q, &v, sizeof v);
        for (int64_t u = 0; u < W / D::depth; ++u) to[i / D::depth + u] = unit_of_integers<D>(q + u * D::depth);
#endif
    }
    if (i < k) {
        const vi v = lanes(load_some(x + i, k - i));
        __builtin_memcpy(q, &v, sizeof v);
        for (int64_t u = i / D::depth; u < units; ++u) to[u] = unit_of_integers<D>(q + (u - i / D::depth) * D::depth);
    }
    return !Checks || !any(zeros != zeros);
}

inline bool not_quantized(int64_t units, uint32_t* to, float& scale, int32_t& zero) {
    __builtin_memset(to, 0, size_t(units) * 4);
    scale = 0;
    zero = 0;
    return false;
}

// One row of a known range as integers. False, and units of zero, for a row that holds an infinity or NaN.
template <class D>
inline bool quantize_row_of(const RowRange& range, const float* x, int64_t k, int64_t units, float calibrated, uint32_t* to, float& scale, int32_t& zero) {
    if (__builtin_expect(!range.finite, 0)) return not_quantized(units, to, scale, zero);
    const RowCodes codes = codes_of<D>(range, calibrated);
    scale = codes.scale;
    zero = codes.zero;
    if (__builtin_expect(codes.lift != 1.0f, 0)) write_codes<D, true>(x, k, units, codes, to);
    else write_codes<D, false>(x, k, units, codes, to);
    return true;
}

// With a calibrated scale, the range of the row is not needed: one pass over it writes its integers and finds infinities and NaN.
template <class D>
inline bool quantize_row(const float* x, int64_t k, int64_t units, float calibrated, uint32_t* to, float& scale, int32_t& zero) {
    if (calibrated <= 0) return quantize_row_of<D>(range_of(x, k), x, k, units, calibrated, to, scale, zero);
    const RowCodes codes = codes_of<D>({}, calibrated);
    scale = codes.scale;
    zero = codes.zero;
    if (__builtin_expect(write_codes<D, false, true>(x, k, units, codes, to), 1)) return true;
    return not_quantized(units, to, scale, zero);
}

// A row whose columns are multiplied by factors first. `scaled` takes the products, and up to W - 1 numbers past their end.
template <class D>
inline bool quantize_scaled_row(const float* x, const float* factors, int64_t k, int64_t units, float calibrated, float* scaled, uint32_t* to, float& scale,
                                int32_t& zero) {
    for (int64_t i = 0; i < k; i += W) store(scaled + i, (k - i >= W ? load(x + i) : load_some(x + i, k - i)) * load(factors + i));
    return quantize_row<D>(scaled, k, units, calibrated, to, scale, zero);
}

}  // namespace
}  // namespace recfx
