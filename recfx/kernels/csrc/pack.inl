// Weights into panels of 2 W columns: [panel][k / depth][column], one 32-bit unit each. Units past the end are zero.
#pragma once
#include "abi.h"
#include "dot_units.inl"

namespace recfx {
namespace {

constexpr int64_t PANEL = 2 * W;

inline uint32_t weight_unit(int32_t format, const void* weight, int64_t n, int64_t k, int64_t width, int64_t depth) {
    uint32_t bits = 0;
    if (format == WEIGHT_I8) {
        const int8_t* row = static_cast<const int8_t*>(weight) + n * width;
        int32_t q[4] = {};
        for (int64_t i = 0; i < depth && k + i < width; ++i) q[i] = row[k + i];
        return unit_of_integers<DotI8>(q);
    }
    const float* row = static_cast<const float*>(weight) + n * width;
    if (format == WEIGHT_BF16 && depth == 2) {
        bits = bf16_bits(row[k]) >> 16;
        return k + 1 < width ? bits | bf16_bits(row[k + 1]) : bits;
    }
    if (format == WEIGHT_BF16) return bf16_bits(row[k]);
    __builtin_memcpy(&bits, row + k, 4);
    return bits;
}

inline int64_t depth_of(int32_t format) { return format == WEIGHT_F32 ? DotF32::depth : format == WEIGHT_BF16 ? DotBF16::depth : DotI8::depth; }

inline void pack(int32_t format, const void* weight, int64_t n, int64_t k, uint32_t* packed) {
    const int64_t depth = depth_of(format), units = (k + depth - 1) / depth;
    for (int64_t panel = 0; panel * PANEL < n; ++panel)
        for (int64_t u = 0; u < units; ++u)
            for (int64_t c = 0; c < PANEL; ++c) {
                const int64_t column = panel * PANEL + c;
                packed[(panel * units + u) * PANEL + c] = column < n ? weight_unit(format, weight, column, u * depth, k, depth) : 0;
            }
}

}  // namespace
}  // namespace recfx
