// y = activation(x W^T * scale + bias) * mul + add, or activation(x W^T * scale + bias + mul + add), for float32, bfloat16 and int8 weights.
//
// Every element of the product is summed over k in order in one accumulator, in every tile: the result does not depend on the batch size, the
// blocking or the number of threads.
#pragma once
#include "activation.inl"
#include "convert.inl"
#include "kernels.h"
#include "pack.inl"

namespace recfx {
namespace {

#if RECFX_LANES == 16
constexpr int TILE_ROWS = 14;  // 28 of 32 registers hold sums
#elif defined(__aarch64__)
constexpr int TILE_ROWS = 12;  // 24 of 32
#else
constexpr int TILE_ROWS = 6;
#endif
constexpr int64_t CHUNK_BYTES = 256 << 10;
constexpr int64_t DEEP = 2048, SLAB = 512;  // units: a longer sum is split into slabs, so that many rows share one read of the weights

struct GemmRows {
    const RecfxView *x, *mul, *add, *out;
    int64_t first, per_batch;  // batch row of row 0; rows of one batch row
};

// The memory that the epilogue of one row reads and writes.
struct EpilogueRow {
    const float *mul, *add;
    float* out;
    float scale;   // of an int8 input
    int32_t zero;  // the offset of an int8 input
    const float* not_finite = nullptr;  // an int8 input that holds an infinity or NaN
};

struct Epilogue {
    Activation activation;
    const float *bias, *scale;
    const int32_t* column_sums;
    const EpilogueRow* rows;  // of the chunk
    int64_t n;
    bool sums_first;  // both `mul` and `add` are added before the activation
    bool plain;       // neither `mul` nor `add`, and at most a ReLU
    float* partial = nullptr;  // sums of the slabs before, by row of the chunk and padded column
    bool resume = false, keep = false;  // whether a slab starts from those sums; whether it stores its own there
    const uint32_t* weights = nullptr;  // packed int8 weights [k], for rows with infinities or NaN
    int64_t k = 0;

    float* partial_at(int64_t chunk_row, int64_t column) const { return partial + chunk_row * ((n + PANEL - 1) / PANEL * PANEL) + column; }

    // The product of a row with infinities or NaN and int8 weights. Finite numbers of the row do not change the result.
    __attribute__((noinline)) vf product_of_not_finite(const float* x, int64_t column) const {
        const uint32_t* from = weights + column / PANEL * ((k + DotI8::depth - 1) / DotI8::depth) * PANEL + column % PANEL;
        vf sum = {};
        for (int64_t i = 0; i < k; ++i)
            if (!(__builtin_fabsf(x[i]) <= __FLT_MAX__))
                sum = sum + x[i] * to_float(integers_of<DotI8>(load_as<vi>(from + i / DotI8::depth * PANEL), i % DotI8::depth));
        return sum * load(scale + column);
    }

    template <class V>
    inline vf product(V acc, const EpilogueRow& r, int64_t column) const {
        if constexpr (__is_same(V, vi)) {
            if (__builtin_expect(r.not_finite != nullptr, 0)) return product_of_not_finite(r.not_finite, column);
            const vi sum = r.zero ? acc - r.zero * load_as<vi>(column_sums + column) : acc;
            return to_float(sum) * load(scale + column) * r.scale;
        } else {
            return acc;
        }
    }

    template <class V>
    inline void write(V acc, const EpilogueRow& r, int64_t column) const {
        const int64_t left = n - column;
        if (left <= 0) return;
        vf y = product(acc, r, column);
        if (bias) y = y + load(bias + column);
        const vf m = !r.mul ? vf{} : left >= W ? load(r.mul + column) : load_some(r.mul + column, left);
        const vf a = !r.add ? vf{} : left >= W ? load(r.add + column) : load_some(r.add + column, left);
        if (sums_first) y = y + a + m;
        if (activation.kind) y = activate(y, activation, column);
        if (!sums_first && r.mul) y = y * m;
        if (!sums_first && r.add) y = y + a;
        if (left >= W) store(r.out + column, y);
        else store_some(r.out + column, y, left);
    }

    // Whole vectors with at most a bias and a ReLU.
    template <class V>
    inline void write_plain(V acc, const EpilogueRow& r, int64_t column, bool relu) const {
        vf y = product(acc, r, column);
        if (bias) y = y + load(bias + column);
        store(r.out + column, relu ? (y < 0.0f ? splat(0.0f) : y) : y);
    }
};

// Inputs and weights of a product: rows of `units` units, `row_units` apart; panels `panel_units` apart.
struct Operands {
    const uint32_t *a, *b;
    int64_t row_units, panel_units, units;

    Operands from(int64_t row, int64_t panel) const { return {a + row * row_units, b + panel * panel_units, row_units, panel_units, units}; }
};

// MR rows by V vectors of columns from a panel's first on: half a panel, a panel, or several.
template <class D, int MR, int V>
inline void tile(const Operands& o, const Epilogue& e, int64_t chunk_row, int64_t panel) {
    constexpr bool floats = !__is_same(typename D::V, vi);
    typename D::V acc[MR][V] = {};
    if constexpr (floats && V <= 2) {
        if (e.resume)
            for (int r = 0; r < MR; ++r)
                for (int v = 0; v < V; ++v) acc[r][v] = load(e.partial_at(chunk_row + r, panel * PANEL + v * W));
    }
    const uint32_t* a = o.a;
    const int64_t stride = o.row_units;
    for (int64_t u = 0; u < o.units; ++u) {
#pragma GCC unroll 16
        for (int v = 0; v < V; v += 2) {
            const uint32_t* bp = o.b + v / 2 * o.panel_units + u * PANEL;
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) {
                acc[r][v] = D::step(acc[r][v], a[r * stride + u], bp);
                if constexpr (V > 1) acc[r][v + 1] = D::step(acc[r][v + 1], a[r * stride + u], bp + W);
            }
        }
    }
    if constexpr (floats && V <= 2) {
        if (e.keep) {
            for (int r = 0; r < MR; ++r)
                for (int v = 0; v < V; ++v) store(e.partial_at(chunk_row + r, panel * PANEL + v * W), acc[r][v]);
            return;
        }
    }
    const EpilogueRow* to = e.rows + chunk_row;
    if (e.plain && panel * PANEL + V * W <= e.n) {
        const bool relu = e.activation.kind == ACT_RELU;
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) e.write_plain(acc[r][v], to[r], panel * PANEL + v * W, relu);
        return;
    }
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) e.write(acc[r][v], to[r], panel * PANEL + v * W);
}

inline bool half(const Epilogue& e, int64_t panel) { return e.n - panel * PANEL <= W; }

// A few rows do not fill the registers with sums; several panels at once hide their latency. Every other call goes backward: if the weights
// are a little larger than the second-level cache, the part that the previous call read last is still in the cache and is read first.
template <class D, int MR>
inline void few_rows(const Operands& o, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    constexpr int P = MR == 1 ? 4 : 2;
    const int64_t groups = (p1 - p0) / P, rest = (p1 - p0) % P;
    if (backward)
        for (int64_t panel = p1; panel > p1 - rest;) --panel, tile<D, MR, 2>(o.from(0, panel), e, 0, panel);
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t panel = p0 + (backward ? groups - 1 - i : i) * P;
        tile<D, MR, 2 * P>(o.from(0, panel), e, 0, panel);
    }
    if (!backward)
        for (int64_t panel = p1 - rest; panel < p1; ++panel) tile<D, MR, 2>(o.from(0, panel), e, 0, panel);
}

using TileFunction = void (*)(const Operands&, const Epilogue&, int64_t, int64_t);

template <class D, int V, int MR = 1>
inline TileFunction tile_of(int64_t rows) {
    if constexpr (MR > TILE_ROWS)
        return nullptr;
    else
        return rows == MR ? &tile<D, MR, V> : tile_of<D, V, MR + 1>(rows);
}

// The scratch memory for one chunk of rows: their units, `row_units` apart, and the destinations of their results.
struct Chunk {
    uint32_t* units;
    int64_t row_units;
    EpilogueRow* rows;
};

// The input of row `row`; sets the destination of its result.
inline const float* place_row(const Context& context, const GemmRows& rows, int64_t row, EpilogueRow& r) {
    const int64_t batch = rows.first + row / rows.per_batch, inner = row % rows.per_batch;
    r.mul = rows.mul->slot < 0 ? nullptr : at<const float>(context, *rows.mul, batch) + inner * rows.mul->stride[0];
    r.add = rows.add->slot < 0 ? nullptr : at<const float>(context, *rows.add, batch) + inner * rows.add->stride[0];
    r.out = at<float>(context, *rows.out, batch) + inner * rows.out->stride[0];
    return at<const float>(context, *rows.x, batch) + inner * rows.x->stride[0];
}

// Fills a chunk from row `first` on with the units [slab, slab + units) of its rows.
template <class D, bool Integers>
inline void convert_rows(const Context& context, const RecfxStep& step, const GemmRows& rows, int64_t first, int64_t count, int64_t slab, int64_t units,
                         const Chunk& chunk) {
    const int64_t from = slab * D::depth, inputs = step.ints[GemmInt::inputs];
    const int64_t k = inputs - from < units * D::depth ? inputs - from : units * D::depth;
    for (int64_t i = 0; i < count; ++i) {
        EpilogueRow& r = chunk.rows[i];
        const float* x = place_row(context, rows, first + i, r) + from;
        if constexpr (Integers) {
            const bool finite = quantize_row<D>(x, k, units, float(step.floats[GemmFloat::input_scale]), chunk.units + i * chunk.row_units, r.scale, r.zero);
            r.not_finite = finite ? nullptr : x;
        } else row_units<D>(x, k, units, chunk.units + i * chunk.row_units);
    }
}

// The product of a chunk's rows with panels [p0, p1).
template <class D>
inline void multiply(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    if (!e.partial) switch (count) {
        case 1: return few_rows<D, 1>(o, e, p0, p1, backward);
        case 2: return few_rows<D, 2>(o, e, p0, p1, backward);
        case 3: return few_rows<D, 3>(o, e, p0, p1, backward);
        case 4: return few_rows<D, 4>(o, e, p0, p1, backward);
    }
    const int64_t tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t panel = p0; panel < p1; ++panel)
        for (int64_t t = 0; t < tiles; ++t) {
            int64_t r0, r1;
            split(count, t, tiles, r0, r1);
            const auto of_rows = half(e, panel) ? tile_of<D, 1>(r1 - r0) : tile_of<D, 2>(r1 - r0);
            of_rows(o.from(r0, panel), e, r0, panel);
        }
}

template <class D, bool Integers>
inline void gemm(const RecfxStep& step, const Context& context, const Range& range) {
    const int64_t n = step.ints[GemmInt::outputs], k = step.ints[GemmInt::inputs], units = (k + D::depth - 1) / D::depth;
    const RecfxView& x = step.views[GemmView::input];
    const GemmRows rows{&x, &step.views[GemmView::factor], &step.views[GemmView::summand], &step.out, range.begin, x.size[0]};
    const auto* packed = static_cast<const uint32_t*>(step.pointers[GemmPointer::weight]);
    const Activation activation = activation_of<GemmInt, GemmFloat, GemmPointer>(step);
    const bool plain = rows.mul->slot < 0 && rows.add->slot < 0 && activation.kind <= ACT_RELU;
    const int64_t total = (range.end - range.begin) * x.size[0], panels = (n + PANEL - 1) / PANEL;
    int64_t p0 = 0, p1 = panels, m0 = 0, m1 = total;
    if (range.parts > 1) {
        if (panels >= total) split(panels, range.part, range.parts, p0, p1);
        else split(total, range.part, range.parts, m0, m1);
    }
    // An int8 row has one scale, so the whole row is converted at once.
    const bool deep = !Integers && units > DEEP && m1 - m0 > TILE_ROWS;
    const int64_t slab = deep ? SLAB : units > 0 ? units : 1;
    // Rows a power of two apart would compete for the few lines of one cache set.
    const int64_t stride = slab % 256 == 0 ? slab + 16 : slab;
    const int64_t chunk_rows = CHUNK_BYTES / (slab * 4) < TILE_ROWS ? TILE_ROWS : CHUNK_BYTES / (slab * 4);
    const int64_t held = chunk_rows < m1 - m0 ? chunk_rows : m1 - m0;
    const size_t unit_bytes = (size_t(held * stride) * 4 + 63) / 64 * 64, partial_bytes = deep ? size_t(held * panels * PANEL) * 4 : 0;
    const size_t bytes = unit_bytes + partial_bytes + size_t(held) * sizeof(EpilogueRow);
    char* memory = static_cast<char*>(context.scratch->at_least(bytes));
    if (!memory) return context.errors->no_memory(context.step, int64_t(bytes));
    const Chunk chunk{reinterpret_cast<uint32_t*>(memory), stride, reinterpret_cast<EpilogueRow*>(memory + unit_bytes + partial_bytes)};
    Epilogue e{activation,
               static_cast<const float*>(step.pointers[GemmPointer::bias]),
               static_cast<const float*>(step.pointers[GemmPointer::scale]),
               static_cast<const int32_t*>(step.pointers[GemmPointer::column_sums]),
               chunk.rows,
               n,
               step.ints[GemmInt::sums_first] != 0,
               plain};
    if (deep) e.partial = reinterpret_cast<float*>(memory + unit_bytes);
    if (Integers) e.weights = packed, e.k = k;
    for (int64_t row = m0; row < m1; row += held) {
        const int64_t count = held < m1 - row ? held : m1 - row;
        for (int64_t u = 0; u < units; u += slab) {
            const int64_t width = slab < units - u ? slab : units - u;
            e.resume = u > 0;
            e.keep = u + width < units;
            convert_rows<D, Integers>(context, step, rows, row, count, u, width, chunk);
            multiply<D>({chunk.units, packed + u * PANEL, stride, units * PANEL, width}, count, e, p0, p1, context.backward);
        }
    }
}

// A float32 product with one column: as a tile it would fill one lane of 2 W. Its sums run over the lanes of k, for any number of rows alike.
inline void one_column(const RecfxStep& step, const Context& context, const Range& range) {
    const int64_t k = step.ints[GemmInt::inputs];
    const RecfxView& x = step.views[GemmView::input];
    const GemmRows rows{&x, &step.views[GemmView::factor], &step.views[GemmView::summand], &step.out, range.begin, x.size[0]};
    auto* weight = static_cast<float*>(context.scratch->at_least(size_t(k) * 4));
    if (!weight) return context.errors->no_memory(context.step, k * 4);
    for (int64_t i = 0; i < k; ++i) weight[i] = static_cast<const float*>(step.pointers[GemmPointer::weight])[i * PANEL];
    const auto* bias = static_cast<const float*>(step.pointers[GemmPointer::bias]);
    const bool sums_first = step.ints[GemmInt::sums_first] != 0;
    const Epilogue e{activation_of<GemmInt, GemmFloat, GemmPointer>(step), bias, nullptr, nullptr, nullptr, 1, sums_first, false};
    int64_t begin, end;
    split((range.end - range.begin) * x.size[0], range.part, range.parts, begin, end);
    for (int64_t row = begin; row < end; ++row) {
        EpilogueRow r{};
        const float* input = place_row(context, rows, row, r);
        vf even = {}, odd = {}, y = {};
        int64_t i = 0;
        for (; i + 2 * W <= k; i += 2 * W) {
            even = even + load(input + i) * load(weight + i);
            odd = odd + load(input + i + W) * load(weight + i + W);
        }
        for (; i < k; i += W) {
            const int64_t left = k - i;
            even = even + (left >= W ? load(input + i) * load(weight + i) : load_some(input + i, left) * load_some(weight + i, left));
        }
        y[0] = sum_lanes(even + odd);
        e.write(y, r, 0);
    }
}

void gemm_step(const RecfxStep& step, const Context& context, const Range& range) {
    const int64_t format = step.ints[GemmInt::format];
    if (format == WEIGHT_F32 && step.ints[GemmInt::outputs] == 1) return one_column(step, context, range);
    switch (format) {
        case WEIGHT_BF16: return gemm<DotBF16, false>(step, context, range);
        case WEIGHT_I8: return gemm<DotI8, true>(step, context, range);
        default: return gemm<DotF32, false>(step, context, range);
    }
}

}  // namespace
}  // namespace recfx
