// Pairwise dot products of a row's feature vectors, and the factorisation machine's second-order term.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

#if RECFX_LANES == 16
constexpr int64_t DOT_ROWS = 14;
#else
constexpr int64_t DOT_ROWS = 6;
#endif

// Dot products of MR rows of x, `stride` apart, with the first V vectors of columns of the transposed features [d][width]. Each row of x
// gives one row of `to`.
template <int MR, int V>
inline void dot_tile(const float* x, int64_t stride, const float* turned, int64_t width, int64_t d, float* to) {
    vf acc[MR][V] = {};
    for (int64_t k = 0; k < d; ++k) {
        vf b[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) b[v] = load(turned + k * width + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const float a = x[r * stride + k];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) acc[r][v] = acc[r][v] + a * b[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store(to + r * width + v * W, acc[r][v]);
}

using DotTile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*);

template <int V, int MR = 1>
inline DotTile dot_tile_of(int64_t rows) {
    if constexpr (MR > DOT_ROWS)
        return nullptr;
    else
        return rows == MR ? &dot_tile<MR, V> : dot_tile_of<V, MR + 1>(rows);
}

// Rows in even tiles, large enough to hide the latency of the sums.
template <int V>
inline void dot_rows(const float* x, int64_t stride, int64_t rows, const float* turned, int64_t width, int64_t d, float* to) {
    const int64_t tiles = (rows + DOT_ROWS - 1) / DOT_ROWS;
    for (int64_t t = 0; t < tiles; ++t) {
        int64_t r0, r1;
        split(rows, t, tiles, r0, r1);
        dot_tile_of<V>(r1 - r0)(x + r0 * stride, stride, turned, width, d, to + r0 * width);
    }
}

// Transposes all features to [d][width]. Columns beyond the last feature are arbitrary: their products are not read.
inline void turn_features(const float* x, int64_t stride, int64_t features, int64_t d, int64_t width, float* to) {
    for (int64_t f = 0; f < features; f += W)
        for (int64_t k = 0; k < d; k += W) {
            if (W > 1 && k + W <= d) {
                turn(x + f * stride + k, stride, to + k * width + f, width, features - f);
                continue;
            }
            for (int64_t kk = k; kk < (k + W < d ? k + W : d); ++kk)
                for (int64_t ff = f; ff < f + W; ++ff) to[kk * width + ff] = ff < features ? x[ff * stride + kk] : 0.0f;
        }
}

// vectors [F, D], prefix [P].
void dot_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& x = step.views[DotView::vectors];
    const int64_t features = x.size[0], d = x.size[1], stride = x.stride[0], prefix = step.ints[DotInt::prefix_columns];
    const int64_t self = step.ints[DotInt::self_pairs], upper = step.ints[DotInt::upper], width = (features + 2 * W - 1) / (2 * W) * (2 * W);
    auto* turned = static_cast<float*>(context.scratch->at_least(size_t(width * (d + features) + W) * 4));
    if (!turned) return context.errors->no_memory(context.step, width * d * 4);
    float* dots = turned + width * d;
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const float* vectors = at<const float>(context, x, row);
        float* out = at<float>(context, step.out, row);
        if (prefix) __builtin_memcpy(out, at<const float>(context, step.views[DotView::prefix], row), size_t(prefix) * 4);
        out += prefix;
        turn_features(vectors, stride, features, d, width, turned);
        for (int64_t v = 0; v < width; v += 2 * W) {
            // In the lower triangle, rows before these columns need no product with them, and the next W rows need only the first vector.
            const int64_t first = upper ? 0 : v, last = upper ? (v + 2 * W < features ? v + 2 * W : features) : features;
            const int64_t middle = upper ? first : (v + W < features ? v + W : features);
            dot_rows<1>(vectors + first * stride, stride, middle - first, turned + v, width, d, dots + first * width + v);
            dot_rows<2>(vectors + middle * stride, stride, last - middle, turned + v, width, d, dots + middle * width + v);
        }
        for (int64_t i = 0; i < features; ++i) {
            const int64_t from = upper ? i + 1 - self : 0, count = (upper ? features : i + self) - from;
            const float* source = dots + i * width + from;
            int64_t j = 0;
            for (; j + W <= count; j += W) store(out + j, load(source + j));
            if (j < count) store_some(out + j, load(source + j), count - j);
            out += count > 0 ? count : 0;
        }
    }
}

// vectors [F, D].
void fm_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& x = step.views[FmView::vectors];
    const int64_t features = x.size[0], d = x.size[1], stride = x.stride[0];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const float* vectors = at<const float>(context, x, row);
        float* out = at<float>(context, step.out, row);
        vf total = {};
        for (int64_t i = 0; i < d; i += W) {
            const int64_t left = d - i;
            vf sum = {}, squares = {};
            for (int64_t f = 0; f < features; ++f) {
                const float* p = vectors + f * stride + i;
                const vf v = left >= W ? load(p) : load_some(p, left);
                sum = sum + v;
                squares = squares + v * v;
            }
            // With a fused difference, the rounding error of one square would remain. A single field gives exactly 0.
            const vf whole = features == 1 ? squares : sum * sum;
            const vf term = (whole - squares) * 0.5f;
            if (step.ints[FmInt::total]) total = total + term;
            else if (left >= W) store(out + i, term);
            else store_some(out + i, term, left);
        }
        if (step.ints[FmInt::total]) out[0] = sum_lanes(total);
    }
}

}  // namespace
}  // namespace recfx
