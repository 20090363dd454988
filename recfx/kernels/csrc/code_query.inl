// Queries rounded to whole numbers, and the affine map from whole-number sums to scores.
#pragma once
#include <cstddef>
#include <cstdint>

namespace recfx {
namespace {

constexpr int64_t CODE_CHUNK = 256;  // scores whose whole-number sums are kept before the affine map

// A query as whole numbers: at one bit a code as planes of words, otherwise a byte for each column.
struct CodeQuery {
    float scale, total;  // q ~ scale * z; the sum of z
    int64_t positive;    // how many z are positive, for signs
};

struct CodeTable {
    const char* rows;
    int64_t count, row_bytes, width, bits, query_bits, dim;
    int64_t planes() const { return query_bits == 1 ? 1 : query_bits; }
    int64_t query_bytes() const { return bits == 1 ? planes() * width : 8 / bits * width; }  // its planes or its columns
};

// Rounds a query to z; padding columns are zero. NaN and infinities make the scale NaN.
inline CodeQuery round_query(const float* q, const CodeTable& t, int8_t* z) {
    __builtin_memset(z, 0, size_t(8 / t.bits * t.width));
    double magnitudes = 0;
    float span = 0;
    bool finite = true;
    for (int64_t i = 0; i < t.dim; ++i) {
        const float x = __builtin_fabsf(q[i]);
        finite &= x <= __FLT_MAX__;
        span = x > span ? x : span;
        magnitudes += double(x);
    }
    if (!finite) return {__builtin_nanf(""), 0, 0};
    int64_t total = 0, positive = 0;
    if (t.query_bits == 1) {
        for (int64_t i = 0; i < t.dim; ++i) {
            z[i] = q[i] > 0 ? 1 : -1;
            positive += z[i] > 0;
        }
        return {float(magnitudes / double(t.dim)), float(2 * positive - t.dim), positive};
    }
    const float most = float((1 << (t.query_bits - 1)) - 1);
    float inverse = most / span;
    if (!(inverse <= __FLT_MAX__)) inverse = 0;  // too small for a scale
    for (int64_t i = 0; i < t.dim; ++i) {
        z[i] = int8_t(__builtin_nearbyintf(q[i] * inverse));
        total += z[i];
    }
    return {span / most, float(total), 0};
}

// Bit p of every z, as a plane in the layout of the codes. A query of signs has one plane, which marks the positive numbers.
inline void planes_of(const int8_t* z, const CodeTable& t, char* planes) {
    __builtin_memset(planes, 0, size_t(t.planes() * t.width));
    for (int64_t p = 0; p < t.planes(); ++p) {
        auto* plane = reinterpret_cast<uint8_t*>(planes + p * t.width);
        for (int64_t shift = 0; shift * t.width < t.dim; ++shift) {
            const int64_t first = shift * t.width, n = t.dim - first < t.width ? t.dim - first : t.width;
            for (int64_t k = 0; k < n; ++k) {
                const int bit = t.query_bits == 1 ? z[first + k] > 0 : (uint8_t(z[first + k]) >> p) & 1;
                plane[k] = uint8_t(plane[k] | bit << shift);
            }
        }
    }
}

inline uint64_t word_at(const char* p, int64_t i) {
    uint64_t word;
    __builtin_memcpy(&word, p + 8 * i, 8);
    return word;
}

// scale * (lower * total + step * dot), every operation rounded. With fused operations, scores would depend on the division of the work.
#if defined(__clang__)
__attribute__((noinline)) void to_scores(const CodeQuery& query, const float* lower, const float* step, const int32_t* dots, int64_t n, float* out) {
#pragma clang fp contract(off)
    for (int64_t i = 0; i < n; ++i) out[i] = query.scale * (lower[i] * query.total + step[i] * float(dots[i]));
}
#else
__attribute__((noinline, optimize("fp-contract=off"))) void to_scores(const CodeQuery& query, const float* lower, const float* step,
                                                                       const int32_t* dots, int64_t n, float* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = query.scale * (lower[i] * query.total + step[i] * float(dots[i]));
}
#endif

inline void write_scores(const float* scores, int64_t n, float* out, int64_t stride) {
    if (stride == 1) __builtin_memcpy(out, scores, size_t(n) * sizeof(float));
    else
        for (int64_t i = 0; i < n; ++i) out[i * stride] = scores[i];
}

}  // namespace
}  // namespace recfx
