// Products of two matrices that both belong to a batch row, and attention, which consists of two such products.
#pragma once
#include "kernels.h"
#include "rows.inl"
#include "simd.inl"
#include "tiles.inl"

namespace recfx {
namespace {

struct Matrix {
    const float* p;
    int64_t row, column;  // strides
};

// MR rows by V vectors of columns of a [m, k] x b [k, n], b with contiguous columns. Whole: all V W columns exist; otherwise `columns` do.
template <int MR, int V, bool Whole>
inline void small_tile(const Matrix& a, const float* b, int64_t b_row, int64_t k, int64_t columns, float alpha, float* c, int64_t c_row) {
    vf acc[MR][V] = {};
    for (int64_t i = 0; i < k; ++i) {
        const float* bp = b + i * b_row;
        vf held[V];
        held[0] = Whole || columns >= W ? load(bp) : load_some(bp, columns);
        if constexpr (V == 2) held[1] = Whole ? load(bp + W) : load_some(bp + W, columns - W);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const float x = a.p[r * a.row + i * a.column];
            acc[r][0] = acc[r][0] + x * held[0];
            if constexpr (V == 2) acc[r][1] = acc[r][1] + x * held[1];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
        float* to = c + r * c_row;
        if (Whole || columns >= W) store(to, acc[r][0] * alpha);
        else store_some(to, acc[r][0] * alpha, columns);
        if constexpr (V == 2) {
            if (Whole) store(to + W, acc[r][1] * alpha);
            else store_some(to + W, acc[r][1] * alpha, columns - W);
        }
    }
}

using SmallTile = void (*)(const Matrix&, const float*, int64_t, int64_t, int64_t, float, float*, int64_t);

template <int V, bool Whole, int MR = 1>
inline SmallTile small_tile_of(int64_t rows) {
    if constexpr (MR > TILE_ROWS)
        return nullptr;
    else
        return rows == MR ? &small_tile<MR, V, Whole> : small_tile_of<V, Whole, MR + 1>(rows);
}

// c = alpha a b; b's columns contiguous.
inline void product(const Matrix& a, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float alpha, float* c, int64_t c_row) {
    const int64_t tiles = row_tiles(m);
    for (int64_t t = 0; t < tiles; ++t) {
        int64_t r0, r1;
        split_rows(m, t, tiles, r0, r1);
        const auto whole = small_tile_of<2, true>(r1 - r0);
        for (int64_t j = 0; j < n; j += 2 * W) {
            const auto of_rows = n - j >= 2 * W ? whole : n - j > W ? small_tile_of<2, false>(r1 - r0) : small_tile_of<1, false>(r1 - r0);
            of_rows({a.p + r0 * a.row, a.row, a.column}, b + j, b_row, k, n - j, alpha, c + r0 * c_row + j, c_row);
        }
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

// The same, with rows next to each other: rows a power of two apart compete for the few lines of one cache set.
inline const float* dense_rows(const Matrix& b, int64_t k, int64_t n, float* scratch, int64_t& row) {
    if (b.column != 1 || b.row == n) return rows_of(b, k, n, scratch, row);
    for (int64_t i = 0; i < k; ++i) __builtin_memcpy(scratch + i * n, b.p + i * b.row, size_t(n) * 4);
    row = n;
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

// A mask that is the same for all queries and heads of a batch row.
struct SharedMask {
    const float* added;  // to the scores of each key
    int64_t end;         // all keys from here on are hidden
    bool hides;          // some keys before it, too
};

inline SharedMask shared_mask(const Context& context, const RecfxView& mask, bool boolean, int64_t row, int64_t n, float* added) {
    const float hidden = -__builtin_inff();
    SharedMask found{added, 0, false};
    bool gap = false;
    for (int64_t j = 0; j < n; ++j) {
        added[j] = boolean ? (at<const uint8_t>(context, mask, row)[j * mask.stride[2]] ? 0.0f : hidden)
                           : at<const float>(context, mask, row)[j * mask.stride[2]];
        gap |= added[j] != 0.0f;
        if (added[j] != hidden) found.end = j + 1, found.hides = gap;
    }
    return found;
}

// Adds the mask of one query and head to its scores.
inline void add_mask(const Context& context, const RecfxView& mask, bool boolean, int64_t row, int64_t first, int64_t n, float* scores) {
    if (boolean) {
        const uint8_t* p = at<const uint8_t>(context, mask, row) + first;
        for (int64_t j = 0; j < n; ++j)
            if (!p[j * mask.stride[2]]) scores[j] += -__builtin_inff();
    } else {
        const float* p = at<const float>(context, mask, row) + first;
        for (int64_t j = 0; j < n; ++j) scores[j] += p[j * mask.stride[2]];
    }
}

// The sum of squares of a matrix [rows, columns]: not finite if a number is not.
inline float squares(const Matrix& a, int64_t rows, int64_t columns) {
    vf total = {};
    float rest = 0;
    for (int64_t i = 0; i < rows; ++i) {
        const float* p = a.p + i * a.row;
        int64_t j = 0;
        if (a.column == 1)
            for (; j + W <= columns; j += W) total = total + load(p + j) * load(p + j);
        for (; j < columns; ++j) rest += p[j * a.column] * p[j * a.column];
    }
    return sum_lanes(total) + rest;
}

// Whether the scores of hidden keys are finite, by the Cauchy-Schwarz inequality, and their values are: then these keys change no result.
inline bool harmless(const Matrix& queries, const Matrix& keys, const Matrix& values, int64_t m, int64_t hidden, int64_t d, int64_t e, float scale) {
    const float most = scale * scale > 1.0f ? scale * scale : 1.0f;
    return most * squares(queries, m, d) * squares(keys, hidden, d) < 1e30f && squares(values, hidden, e) <= __FLT_MAX__;
}

// The attention of one head.
struct Head {
    Matrix query, key, value;
    int64_t m, n, d, e;
    float scale;

    Matrix keys_from(int64_t j) const { return {key.p + j * key.row, key.row, key.column}; }
    Matrix values_from(int64_t j) const { return {value.p + j * value.row, value.row, value.column}; }

    // The keys that can change a result, a whole number of tiles where there are more: without those that the shared mask hides at the end.
    int64_t seen(int64_t end) const {
        const int64_t some = (end + 2 * W - 1) / (2 * W) * (2 * W);
        return some < n && harmless(query, keys_from(some), values_from(some), m, n - some, d, e, scale) ? some : n;
    }
};

// softmax(q k^T * scale + mask) v, for as many queries at once as a tile has rows, so that their scores stay in the first-level cache.
// A query that sees no key has weights of zero, as torch's operator defines it; a softmax alone would give NaN. A mask is added, so that a hidden
// score of NaN or +inf gives NaN; the causal order replaces the scores it hides. Keys that cannot change a result are left out.
// query [h, m, d], key [h, n, d], value [h, n, e], mask [h, m, n]; out [h, m, e] with contiguous columns.
void attention_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &q = step.views[AttentionView::query], &k = step.views[AttentionView::key], &v = step.views[AttentionView::value];
    const RecfxView &mask = step.views[AttentionView::mask], &out = step.out;
    const int64_t m = q.size[1], d = q.size[2], n = k.size[1], e = v.size[2];
    const bool masked = mask.slot >= 0, boolean = step.ints[AttentionInt::mask_is_boolean] != 0, causal = step.ints[AttentionInt::causal] != 0;
    const bool shared = masked && mask.stride[0] == 0 && mask.stride[1] == 0;
    const int64_t room = n + W, numbers = d * n + n * e + (TILE_ROWS + 1) * room;
    auto* turned_keys = static_cast<float*>(context.scratch->at_least(size_t(numbers) * 4 + 64));
    if (!turned_keys) return context.errors->no_memory(context.step, numbers * 4);
    float *held_values = turned_keys + d * n, *scores = held_values + n * e, *added = scores + TILE_ROWS * room;
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const SharedMask common = shared ? shared_mask(context, mask, boolean, row, n, added) : SharedMask{added, n, false};
        for (int64_t h = 0; h < out.size[0]; ++h) {
            const Head head{matrix_at(context, q, row, h), matrix_at(context, k, row, h), matrix_at(context, v, row, h), m, n, d, e,
                            float(step.floats[AttentionFloat::scale])};
            const int64_t seen = head.seen(common.end);
            const bool hides = common.hides || seen > common.end, ordered = causal && squares(head.value, seen, e) <= __FLT_MAX__;
            int64_t key_row, value_row;
            const float* keys = rows_of({head.key.p, head.key.column, head.key.row}, d, seen, turned_keys, key_row);
            const float* values = dense_rows(head.value, seen, e, held_values, value_row);
            float* to = at<float>(context, out, row) + h * out.stride[0];
            const int64_t tiles = row_tiles(m);
            for (int64_t t = 0; t < tiles; ++t) {
                int64_t r0, r1;
                split_rows(m, t, tiles, r0, r1);
                const int64_t earlier = (r1 + 2 * W - 1) / (2 * W) * (2 * W), used = ordered && earlier < seen ? earlier : seen;
                product({head.query.p + r0 * head.query.row, head.query.row, head.query.column}, keys, key_row, r1 - r0, used, d, head.scale, scores, room);
                for (int64_t i = r0; i < r1; ++i) {
                    float* s = scores + (i - r0) * room;
                    if (masked && !shared) add_mask(context, mask, boolean, row, h * mask.stride[0] + i * mask.stride[1], used, s);
                    else if (hides)
                        for (int64_t j = 0; j < used; ++j) s[j] += common.added[j];
                    if (causal)
                        for (int64_t j = i + 1; j < used; ++j) s[j] = -__builtin_inff();
                    if (all_hidden(s, used)) __builtin_memset(s, 0, size_t(used) * 4);
                    else softmax_row(s, s, used);
                }
                product({scores, room, 1}, values, value_row, r1 - r0, e, used, 1.0f, to + r0 * out.stride[1], out.stride[1]);
            }
        }
    }
}

}  // namespace
}  // namespace recfx
