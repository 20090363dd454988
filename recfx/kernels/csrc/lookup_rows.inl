// Rows of a table in every format of their numbers: fp32, bf16, fp16, and codes of 8, 4, 2 and 1 bits with a scale and an offset.
#pragma once
#include "abi.h"
#include "simd.inl"

namespace recfx {
namespace {

// Whether rows hold codes of `format` bits, with a scale and an offset.
constexpr bool is_codes(int format) { return format >= ROWS_CODES_1 && format <= ROWS_CODES_8; }

// W values of a row from column d.
template <int Format>
inline vf row_values(const char* row, int64_t d, float scale, float bias) {
    if constexpr (Format == ROWS_F32) return load(reinterpret_cast<const float*>(row) + d);
    alignas(64) int32_t lanes[W];
    if constexpr (Format == ROWS_BF16 || Format == ROWS_F16) {
#if RECFX_LANES == 16
        const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * d));
        if constexpr (Format == ROWS_BF16) return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
        else return (vf)_mm512_cvtph_ps(h);
#else
        const auto* p = reinterpret_cast<const char*>(row + 2 * d);
        for (int i = 0; i < W; ++i) {
            uint16_t h;
            __builtin_memcpy(&h, p + 2 * i, 2);
            if constexpr (Format == ROWS_BF16) lanes[i] = int32_t(uint32_t(h) << 16);
            else {
                const float f = half_to_float(h);
                __builtin_memcpy(lanes + i, &f, 4);
            }
        }
        return as_float(load_as<vi>(lanes));
#endif
    }
    if constexpr (Format == ROWS_CODES_8) {
#if RECFX_LANES == 16
        const vi q = (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d)));
        return to_float(q) * scale + bias;
#endif
    }
    if constexpr (is_codes(Format)) {
        for (int i = 0; i < W; ++i) {
            const int64_t bit = (d + i) * Format;
            lanes[i] = (uint8_t(row[bit / 8]) >> (bit % 8)) & ((1 << Format) - 1);
        }
        return to_float(load_as<vi>(lanes)) * scale + bias;
    }
}

#if RECFX_LANES == 16
inline vf unpack_bits(uint64_t word, int bits, float scale, float bias) {
    vi q;
    if (bits == 4) {
        const __m512i both = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), _mm512_set1_epi64(int64_t(word)));
        q = (vi)_mm512_srlv_epi32(both, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28)) & 15;
    } else {
        const vi steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        q = (vi)((vu)splat(int32_t(word)) >> (vu)(steps * bits)) & ((1 << bits) - 1);
    }
    return to_float(q) * scale + bias;
}
template <>
inline vf row_values<ROWS_CODES_4>(const char* row, int64_t d, float scale, float bias) {
    uint64_t word;
    __builtin_memcpy(&word, row + d / 2, 8);
    return unpack_bits(word, 4, scale, bias);
}
template <>
inline vf row_values<ROWS_CODES_2>(const char* row, int64_t d, float scale, float bias) {
    uint32_t word;
    __builtin_memcpy(&word, row + d / 4, 4);
    return unpack_bits(word, 2, scale, bias);
}
template <>
inline vf row_values<ROWS_CODES_1>(const char* row, int64_t d, float scale, float bias) {
    uint16_t word;
    __builtin_memcpy(&word, row + d / 8, 2);
    return unpack_bits(word, 1, scale, bias);
}
#endif

template <int Format>
inline float row_value(const char* row, int64_t d, float scale, float bias) {
    if constexpr (Format == ROWS_F32) return reinterpret_cast<const float*>(row)[d];
    if constexpr (Format == ROWS_BF16 || Format == ROWS_F16) {
        uint16_t h;
        __builtin_memcpy(&h, row + 2 * d, 2);
        if constexpr (Format == ROWS_F16) return half_to_float(h);
        const uint32_t bits = uint32_t(h) << 16;
        float f;
        __builtin_memcpy(&f, &bits, 4);
        return f;
    }
    if constexpr (is_codes(Format)) {
        const int64_t bit = d * Format;
        return float((uint8_t(row[bit / 8]) >> (bit % 8)) & ((1 << Format) - 1)) * scale + bias;
    }
}

// Scale and offset, which follow the codes of a row.
template <int Format>
inline void scale_of(const char* row, int64_t dim, float& scale, float& bias) {
    if constexpr (is_codes(Format)) {
        uint16_t tail[2];
        __builtin_memcpy(tail, row + (dim * Format + 7) / 8, 4);
        scale = half_to_float(tail[0]);
        bias = half_to_float(tail[1]);
    }
}

// to (+)= weight * row, for rows of any length.
template <int Format>
inline void take_row(const RecfxFeature& f, int64_t row, float weight, bool weighted, bool add, float* to) {
    const char* p = static_cast<const char*>(f.rows) + row * f.row_bytes;
    float scale = 0, bias = 0;
    scale_of<Format>(p, f.dim, scale, bias);
    int64_t d = 0;
    for (; d + W <= f.dim; d += W) {
        vf v = row_values<Format>(p, d, scale, bias);
        if (weighted) v = v * weight;
        if (add) v = load(to + d) + v;
        store(to + d, v);
    }
    for (; d < f.dim; ++d) {
        float v = row_value<Format>(p, d, scale, bias);
        if (weighted) v *= weight;
        to[d] = add ? to[d] + v : v;
    }
}

}  // namespace
}  // namespace recfx
