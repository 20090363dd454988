// Input rows of a GEMM as 32-bit units.
#pragma once

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
        for (int64_t u = 0; u < whole; ++u) to[u] = bf16_bits(x[2 * u]) >> 16 | bf16_bits(x[2 * u + 1]);
        if (whole < units) to[whole] = bf16_bits(x[2 * whole]) >> 16;
    }
}

inline void range_of(const float* x, int64_t k, float& low, float& high) {
    vf lows = splat(x[0]), highs = lows;
    int64_t i = 0;
    for (; i + W <= k; i += W) {
        const vf v = load(x + i);
        lows = min(lows, v);
        highs = max(highs, v);
    }
    low = -max_lanes(-lows);
    high = max_lanes(highs);
    for (; i < k; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
}

// One row to integers: 0..255 when nothing is negative, otherwise -127..127; or by a calibrated scale.
template <class D>
inline void quantize_row(const float* x, int64_t k, int64_t units, float calibrated, uint32_t* to, float& scale, int32_t& zero) {
    float inverse;
    bool negative = true;
    if (calibrated > 0) {
        scale = calibrated;
        inverse = 1 / calibrated;
    } else {
        float low, high;
        range_of(x, k, low, high);
        negative = low < 0;
        const float span = high > -low ? high : -low, levels = negative ? 127.0f : 255.0f;
        inverse = span > 0 ? levels / span : 0.0f;
        scale = span / levels;
    }
    zero = negative ? D::zero_signed : D::zero_unsigned;
    const vf limit = splat(calibrated > 0 ? 127.0f : 255.0f);
    auto lanes = [&](vf v) {
        v = round_even(v * inverse);
        return to_int(max(min(v, limit), -limit)) + zero;
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
}
