// Products of two matrices that both belong to a batch row, and attention, which consists of two such products.
#pragma once
#include "kernels.h"
#include "rows.inl"
#include "simd.inl"

namespace recfx {
namespace {

struct Matrix {
    const float* p;
    int64_t row, column;  // strides
};

// MR rows by 2 W columns of a [m, k] x b [k, n], b with contiguous columns.
template <int MR>
inline void small_tile(const Matrix& a, const float* b, int64_t b_row, int64_t k, int64_t columns, float alpha, float* c, int64_t c_row) {
    vf acc[MR][2] = {};
    const bool whole = columns >= 2 * W;
    for (int64_t i = 0; i < k; ++i) {
        const float* bp = b + i * b_row;
        const vf b0 = whole || columns >= W ? load(bp) : load_some(bp, columns);
        const vf b1 = whole ? load(bp + W) : columns > W ? load_some(bp + W, columns - W) : vf{};
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            const float x = a.p[r * a.row + i * a.column];
            acc[r][0] = acc[r][0] + x * b0;
            acc[r][1] = acc[r][1] + x * b1;
        }
    }
    for (int r = 0; r < MR; ++r) {
        float* to = c + r * c_row;
        if (columns >= W) store(to, acc[r][0] * alpha);
        else store_some(to, acc[r][0] * alpha, columns);
        if (whole) store(to + W, acc[r][1] * alpha);
        else if (columns > W) store_some(to + W, acc[r][1] * alpha, columns - W);
    }
}

// c = alpha a b; b's columns contiguous.
inline void product(Matrix a, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float alpha, float* c, int64_t c_row) {
    for (int64_t j = 0; j < n; j += 2 * W) {
        int64_t i = 0;
        Matrix rows = a;
        for (; i + 4 <= m; i += 4, rows.p += 4 * a.row) small_tile<4>(rows, b + j, b_row, k, n - j, alpha, c + i * c_row + j, c_row);
        for (; i < m; ++i, rows.p += a.row) small_tile<1>(rows, b + j, b_row, k, n - j, alpha, c + i * c_row + j, c_row);
    }
}

// Transposes `from` [n, k], with rows `from_row` apart and contiguous columns, to [k, n]. The last tiles overlap their neighbours.
inline void transpose(const float* from, int64_t from_row, int64_t k, int64_t n, float* to) {
    for (int64_t j = 0; j < n; j += W) {
        const int64_t first = j + W <= n ? j : n - W;
        for (int64_t i = 0; i < k; i += W) {
            const int64_t column = i + W <= k ? i : k - W;
            turn(from + first * from_row + column, from_row, to + column * n + first, n);
        }
    }
}

// b [k, n] with any strides, as contiguous rows.
inline const float* rows_of(const Matrix& b, int64_t k, int64_t n, float* scratch, int64_t& row) {
    if (b.column == 1) {
        row = b.row;
        return b.p;
    }
    row = n;
    if (b.row == 1 && k >= W && n >= W) {
        transpose(b.p, b.column, k, n, scratch);
        return scratch;
    }
    for (int64_t j = 0; j < n; ++j)
        for (int64_t i = 0; i < k; ++i) scratch[i * n + j] = b.p[i * b.row + j * b.column];
    return scratch;
}

inline Matrix matrix_at(const Context& context, const RecfxView& v, int64_t row, int64_t outer) {
    return {at<const float>(context, v, row) + outer * v.stride[0], v.stride[1], v.stride[2]};
}

// left [outer, m, k], right [outer, k, n]; out [outer, m, n] with contiguous columns.
void bmm_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &a = step.views[BmmView::left], &b = step.views[BmmView::right], &out = step.out;
    const int64_t m = a.size[1], k = a.size[2], n = b.size[2];
    auto* scratch = static_cast<float*>(context.scratch->at_least(size_t(k * n) * 4 + 64));
    if (!scratch) return context.errors->no_memory(context.step, k * n * 4);
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t o = 0; o < out.size[0]; ++o) {
            int64_t b_row;
            const float* held = rows_of(matrix_at(context, b, row, o), k, n, scratch, b_row);
            product(matrix_at(context, a, row, o), held, b_row, m, n, k, float(step.floats[BmmFloat::factor]),
                    at<float>(context, out, row) + o * out.stride[0], out.stride[1]);
        }
}

// Whether every score of a query is -inf: its mask hides all keys. A NaN is not -inf.
inline bool all_hidden(const float* scores, int64_t n) {
    for (int64_t j = 0; j < n; ++j)
        if (scores[j] != -__builtin_inff()) return false;
    return true;
}

// softmax(q k^T * scale + mask) v. A query that sees no key has weights of zero, as torch's operator defines it; a softmax alone would give NaN.
// A mask is added, so that a hidden score of NaN or +inf gives NaN; the causal order replaces the scores it hides.
// query [h, m, d], key [h, n, d], value [h, n, e], mask [h, m, n]; out [h, m, e] with contiguous columns.
void attention_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &q = step.views[AttentionView::query], &k = step.views[AttentionView::key], &v = step.views[AttentionView::value];
    const RecfxView &mask = step.views[AttentionView::mask], &out = step.out;
    const int64_t m = q.size[1], d = q.size[2], n = k.size[1], e = v.size[2];
    auto* scratch = static_cast<float*>(context.scratch->at_least(size_t(d * n + m * n + n * e) * 4 + 64));
    if (!scratch) return context.errors->no_memory(context.step, m * n * 4);
    float* scores = scratch + d * n;
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t h = 0; h < out.size[0]; ++h) {
            Matrix keys = matrix_at(context, k, row, h);
            int64_t key_row, value_row;
            const float* turned = rows_of({keys.p, keys.column, keys.row}, d, n, scratch, key_row);
            product(matrix_at(context, q, row, h), turned, key_row, m, n, d, float(step.floats[AttentionFloat::scale]), scores, n);
            for (int64_t i = 0; i < m; ++i) {
                float* s = scores + i * n;
                if (mask.slot >= 0) {
                    const int64_t first = h * mask.stride[0] + i * mask.stride[1];
                    if (step.ints[AttentionInt::mask_is_boolean]) {
                        const uint8_t* p = at<const uint8_t>(context, mask, row) + first;
                        for (int64_t j = 0; j < n; ++j)
                            if (!p[j * mask.stride[2]]) s[j] += -__builtin_inff();
                    } else {
                        const float* p = at<const float>(context, mask, row) + first;
                        for (int64_t j = 0; j < n; ++j) s[j] += p[j * mask.stride[2]];
                    }
                }
                if (step.ints[AttentionInt::causal])
                    for (int64_t j = i + 1; j < n; ++j) s[j] = -__builtin_inff();
                if (all_hidden(s, n)) __builtin_memset(s, 0, size_t(n) * 4);
                else softmax_row(s, s, n);
            }
            const float* values = rows_of(matrix_at(context, v, row, h), n, e, scores + m * n, value_row);
            product({scores, n, 1}, values, value_row, m, e, n, 1.0f, at<float>(context, out, row) + h * out.stride[0], out.stride[1]);
        }
}

}  // namespace
}  // namespace recfx
