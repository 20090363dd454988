// Products of rows with packed weights: tiles of sums, and the epilogue that writes them.
//
// Every element of the product is summed over k in order in one accumulator, in every tile: the result does not depend on the batch size, the
// blocking or the number of threads.
#pragma once
#include "convert.inl"
#include "epilogue.inl"
#include "matrix_tiles.inl"

namespace recfx {
namespace {

#if RECFX_LANES == 16
constexpr int TILE_ROWS = 14;  // 28 of 32 registers hold sums
#elif defined(__aarch64__)
constexpr int TILE_ROWS = 12;  // 24 of 32
#else
constexpr int TILE_ROWS = 6;
#endif

// The tiles of `rows` rows: as few as possible, of an even number of rows each, since tiles of an odd number are slower.
inline int64_t row_tiles(int64_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }
inline void split_rows(int64_t rows, int64_t tile, int64_t tiles, int64_t& begin, int64_t& end) {
    split((rows + 1) / 2, tile, tiles, begin, end);
    begin *= 2;
    end = 2 * end < rows ? 2 * end : rows;
}

constexpr int FEW = 4;  // up to this many rows, several panels go through one tile
constexpr int64_t LONG_SUM = 128;  // units
constexpr int64_t CHUNK_BYTES = (RECFX_HAS_AMX ? 512 : 256) << 10;  // a quarter of the second-level cache
constexpr int64_t DEEP = 2048, SLAB = 512;  // units: a longer sum is split into slabs, so that many rows share one read of the weights

// MR rows by V vectors of columns from a panel's first on: half a panel, a panel, or several.
template <class D, int MR, int V>
inline void tile(const Operands& o, const Epilogue& e, int64_t chunk_row, int64_t panel) {
    constexpr bool floats = !__is_same(typename D::V, vi);
    typename D::V acc[MR][V] = {};
    if constexpr (floats && V <= 2) {
        if (e.resume) {
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < V; ++v) acc[r][v] = load(e.partial_at(chunk_row + r, panel * PANEL + v * W));
        }
    }
    const uint32_t* a = o.a;
    const int64_t stride = o.row_units;
    if constexpr (MR > FEW) {  // the lines of the result are in the cache when the sums are ready; short sums do not hide the time it takes
        for (int r = 0; o.units >= LONG_SUM && !e.keep && r < MR; ++r)
            for (int v = 0; v < V; ++v) __builtin_prefetch(e.rows[chunk_row + r].out + panel * PANEL + v * W, 1);
    }
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
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r)
#pragma GCC unroll 16
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
    typename D::V sums[MR][V];  // of its own, so that `acc`, which no loop indexes, stays in registers
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sums[r][v] = acc[r][v];
    for (int r = 0; r < MR; ++r)
        for (int v = 0; v < V; ++v) e.write(sums[r][v], to[r], panel * PANEL + v * W);
}

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

// The product of up to FEW rows.
template <class D>
inline void multiply_few(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    switch (count) {
        case 1: return few_rows<D, 1>(o, e, p0, p1, backward);
        case 2: return few_rows<D, 2>(o, e, p0, p1, backward);
        case 3: return few_rows<D, 3>(o, e, p0, p1, backward);
        case FEW: return few_rows<D, FEW>(o, e, p0, p1, backward);
    }
}

// The product of a chunk's rows with panels [p0, p1). Not inlined: all sources of rows share one copy of its tiles. A chunk's rows and units are
// padded to multiples of CHUNK_ROWS (unless it has fewer) and CHUNK_UNITS.
#if RECFX_HAS_AMX
constexpr int64_t CHUNK_ROWS = BLOCK, CHUNK_UNITS = TILE;

template <class D>
__attribute__((noinline)) void multiply(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    if (__is_same(D, DotI8) && count <= FEW) multiply_few<DotI8>(o, count, e, p0, p1, backward);
    else multiply_by_tiles<D>(o, count, e, p0, p1, backward);
}
#else
constexpr int64_t CHUNK_ROWS = TILE_ROWS, CHUNK_UNITS = 1;

template <class D>
__attribute__((noinline)) void multiply(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    if (!e.partial && count <= FEW) return multiply_few<D>(o, count, e, p0, p1, backward);
    const int64_t tiles = row_tiles(count);
    for (int64_t panel = p0; panel < p1; ++panel)
        for (int64_t t = 0; t < tiles; ++t) {
            int64_t r0, r1;
            split_rows(count, t, tiles, r0, r1);
            const auto of_rows = half(e, panel) ? tile_of<D, 1>(r1 - r0) : tile_of<D, 2>(r1 - r0);
            of_rows(o.from(r0, panel), e, r0, panel);
        }
}
#endif

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The sizes of a product, and its packed weights.
struct PackedProduct {
    int64_t rows, n, k;
    const uint32_t* weights;
};

// Rows [first, first + count) of a product's input, as a `Source` of `multiply_rows`:
//   DEEP_ROWS                           the fewest rows, less one, whose long sums are split into slabs
//   bytes(held, columns)                scratch memory for `held` rows, of which `columns` numbers are converted at once
//   hold(memory, held, columns)         gives it that memory
//   fill(first, count, slab, units, chunk)  converts the units [slab, slab + units) of the rows and sets the destinations of their results; may write
//                                       W numbers past the end of the last row
template <class D, bool Integers, class Source>
inline void multiply_rows(const PackedProduct& product, Epilogue e, Source& source, const Context& context, const Range& range) {
    const int64_t n = product.n, units = (product.k + D::depth - 1) / D::depth, panels = (n + PANEL - 1) / PANEL;
    int64_t p0 = 0, p1 = panels, m0 = 0, m1 = product.rows;
    if (range.parts > 1) {
        if (panels >= product.rows) split(panels, range.part, range.parts, p0, p1);
        else split(product.rows, range.part, range.parts, m0, m1);
    }
    // An int8 row has one scale, so the whole row is converted at once.
    const bool deep = !Integers && units > DEEP && m1 - m0 > Source::DEEP_ROWS;
    const int64_t slab = deep ? SLAB : units > 0 ? units : 1;
    // Rows a power of two apart would compete for the few lines of one cache set.
    const int64_t padded = round_up(slab, CHUNK_UNITS), stride = padded % 256 == 0 ? padded + 16 : padded;
    const int64_t fitting = CHUNK_BYTES / (slab * 4) / CHUNK_ROWS, chunk_rows = (fitting ? fitting : 1) * CHUNK_ROWS;
    const int64_t held = chunk_rows < m1 - m0 ? chunk_rows : m1 - m0, padded_rows = RECFX_HAS_AMX ? round_up(held, CHUNK_ROWS) : held;
    const size_t unit_bytes = size_t(round_up(padded_rows * stride + W, 16)) * 4, partial_bytes = deep ? size_t(padded_rows * panels * PANEL) * 4 : 0;
    const size_t row_bytes = (size_t(held) * sizeof(EpilogueRow) + 63) / 64 * 64;
    const size_t bytes = unit_bytes + partial_bytes + row_bytes + source.bytes(held, slab * D::depth);
    char* memory = static_cast<char*>(context.scratch->at_least(bytes));
    if (!memory) return context.errors->no_memory(context.step, int64_t(bytes));
    const Chunk chunk{reinterpret_cast<uint32_t*>(memory), stride, reinterpret_cast<EpilogueRow*>(memory + unit_bytes + partial_bytes)};
    source.hold(memory + unit_bytes + partial_bytes + row_bytes, held, slab * D::depth);
    e.rows = chunk.rows;
    if (deep) e.partial = reinterpret_cast<float*>(memory + unit_bytes);
    if (Integers) e.weights = product.weights, e.k = product.k;
    for (int64_t row = m0; row < m1; row += held) {
        const int64_t count = held < m1 - row ? held : m1 - row;
        for (int64_t u = 0; u < units; u += slab) {
            const int64_t width = slab < units - u ? slab : units - u;
            e.resume = u > 0;
            e.keep = u + width < units;
            source.fill(row, count, u, width, chunk);
            multiply<D>({chunk.units, product.weights + u * PANEL, stride, units * PANEL, width}, count, e, p0, p1, context.backward);
        }
    }
}

// Calls `run` with the products of a weight format and whether its rows are quantised. Products of float32 have no matrix instructions: they
// are those of the level below, so that they are not compiled again.
template <class F>
inline void with_format(int64_t format, F run) {
    switch (format) {
        case WEIGHT_BF16: return run(DotBF16{}, KindOf<false>{});
        case WEIGHT_I8: return run(DotI8{}, KindOf<true>{});
#if !RECFX_HAS_AMX
        default: return run(DotF32{}, KindOf<false>{});
#endif
    }
}

}  // namespace
}  // namespace recfx
