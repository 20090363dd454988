// y = activation(x W^T * scale + bias) * mul + add, or activation(x W^T * scale + bias + mul + add), for float32, bfloat16 and int8 weights.
//
// Every element of the product is summed over k in order in one accumulator, whatever the tile: the result does not depend on the batch size, on
// the blocking or on the number of threads.
#pragma once

#if RECFX_LANES == 16
constexpr int TILE_ROWS = 14;  // 28 of 32 registers hold sums
#else
constexpr int TILE_ROWS = 6;
#endif
constexpr int64_t CHUNK_BYTES = 256 << 10;

struct GemmRows {
    const RecfxView *x, *mul, *add, *out;
    int64_t first, per_batch;  // batch row of row 0; rows of one batch row
};

template <class T>
inline T* row_at(const Context& context, const RecfxView& view, const GemmRows& rows, int64_t row) {
    const int64_t batch = row / rows.per_batch, inner = row - batch * rows.per_batch;
    return at<T>(context, view, rows.first + batch) + inner * view.stride[0];
}

// Where one row's epilogue reads and writes.
struct EpilogueRow {
    const float *mul, *add;
    float* out;
    float scale;   // of an int8 input
    int32_t zero;  // 128 where an int8 input was shifted
};

struct Epilogue {
    const Context& context;
    const RecfxStep& step;
    const GemmRows& rows;
    Activation activation;
    const float *bias, *scale;
    const int32_t* column_sums;
    const float* row_scale;  // of int8 inputs, per row of the chunk
    const int32_t* row_zero;
    int64_t n;
    bool sums_first;  // both `mul` and `add` are added before the activation

    inline EpilogueRow row(int64_t row, int64_t chunk_row) const {
        return {rows.mul->slot >= 0 ? row_at<const float>(context, *rows.mul, rows, row) : nullptr,
                rows.add->slot >= 0 ? row_at<const float>(context, *rows.add, rows, row) : nullptr,
                row_at<float>(context, *rows.out, rows, row), row_scale[chunk_row], row_zero[chunk_row]};
    }

    template <class V>
    inline void write(V acc, const EpilogueRow& r, int64_t column) const {
        const int64_t left = n - column;
        if (left <= 0) return;
        vf y;
        if constexpr (__is_same(V, vi)) {
            const vi sum = r.zero ? acc - r.zero * load_as<vi>(column_sums + column) : acc;
            y = to_float(sum) * (r.scale * load(scale + column));
        } else {
            y = acc;
        }
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
};

// MR rows, `stride` units apart, by P panels.
template <class D, int MR, int P>
inline void tile(const uint32_t* a, int64_t stride, const uint32_t* b, int64_t units, const Epilogue& e, int64_t row, int64_t chunk_row, int64_t panel) {
    typename D::V acc[MR][2 * P] = {};
    const int64_t panel_units = units * PANEL;
    for (int64_t u = 0; u < units; ++u) {
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
            const uint32_t* bp = b + p * panel_units + u * PANEL;
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) {
                acc[r][2 * p] = D::step(acc[r][2 * p], a[r * stride + u], bp);
                acc[r][2 * p + 1] = D::step(acc[r][2 * p + 1], a[r * stride + u], bp + W);
            }
        }
    }
    for (int r = 0; r < MR; ++r) {
        const EpilogueRow to = e.row(row + r, chunk_row + r);
        for (int p = 0; p < P; ++p) {
            e.write(acc[r][2 * p], to, (panel + p) * PANEL);
            e.write(acc[r][2 * p + 1], to, (panel + p) * PANEL + W);
        }
    }
}

// A few rows do not fill the registers with sums; several panels at once hide the latency of those there are.
template <class D, int MR>
inline void few_rows(const uint32_t* a, int64_t stride, const uint32_t* packed, int64_t units, const Epilogue& e, int64_t row, int64_t p0, int64_t p1) {
    constexpr int P = MR == 1 ? 4 : 2;
    int64_t panel = p0;
    for (; panel + P <= p1; panel += P) tile<D, MR, P>(a, stride, packed + panel * units * PANEL, units, e, row, 0, panel);
    for (; panel < p1; ++panel) tile<D, MR, 1>(a, stride, packed + panel * units * PANEL, units, e, row, 0, panel);
}

template <class D>
using TileFunction = void (*)(const uint32_t*, int64_t, const uint32_t*, int64_t, const Epilogue&, int64_t, int64_t, int64_t);

template <class D, int MR>
inline TileFunction<D> tile_of(int rows) {
    if constexpr (MR > TILE_ROWS)
        return nullptr;
    else
        return rows == MR ? &tile<D, MR, 1> : tile_of<D, MR + 1>(rows);
}

// Units of `rows` rows from `row`: scratch [rows][units], and for int8 the scale and shift of each row.
template <class D, bool Integers>
inline void convert_rows(const Epilogue& e, int64_t row, int64_t rows, int64_t k, int64_t units, uint32_t* to, float* scales, int32_t* zeros) {
    for (int64_t i = 0; i < rows; ++i) {
        const float* x = row_at<const float>(e.context, *e.rows.x, e.rows, row + i);
        if constexpr (Integers)
            quantize_row<D>(x, k, units, float(e.step.floats[2]), to + i * units, scales[i], zeros[i]);
        else
            row_units<D>(x, k, units, to + i * units);
    }
}

template <class D, bool Integers>
inline void gemm(const RecfxStep& step, const Context& context, const Range& range) {
    const int64_t n = step.ints[1], k = step.ints[2], units = (k + D::depth - 1) / D::depth;
    const RecfxView& x = step.views[0];
    GemmRows rows{&x, &step.views[1], &step.views[2], &step.out, range.begin, x.size[0]};
    const auto* packed = static_cast<const uint32_t*>(step.pointers[0]);
    Epilogue e{context, step, rows, activation_of(step, step.ints[3]), static_cast<const float*>(step.pointers[1]),
               static_cast<const float*>(step.pointers[2]), static_cast<const int32_t*>(step.pointers[3]), nullptr, nullptr, n, step.ints[4] != 0};
    const int64_t total = (range.end - range.begin) * x.size[0], panels = (n + PANEL - 1) / PANEL;
    int64_t p0 = 0, p1 = panels, m0 = 0, m1 = total;
    if (range.parts > 1) {
        if (panels >= total) split(panels, range.part, range.parts, p0, p1);
        else split(total, range.part, range.parts, m0, m1);
    }
    const int64_t chunk = CHUNK_BYTES / (units * 4) < TILE_ROWS ? TILE_ROWS : CHUNK_BYTES / (units * 4);
    const int64_t held = chunk < m1 - m0 ? chunk : m1 - m0;
    const size_t unit_bytes = (size_t(held * units) * 4 + 63) / 64 * 64;
    char* memory = static_cast<char*>(context.scratch->at_least(unit_bytes + size_t(held) * 8));
    if (!memory) return context.errors->raise({3, context.step, 0, 0, int64_t(unit_bytes), 0});
    auto* inputs = reinterpret_cast<uint32_t*>(memory);
    auto* scales = reinterpret_cast<float*>(memory + unit_bytes);
    auto* zeros = reinterpret_cast<int32_t*>(scales + held);
    e.row_scale = scales;
    e.row_zero = zeros;
    for (int64_t row = m0; row < m1; row += held) {
        const int64_t count = held < m1 - row ? held : m1 - row;
        convert_rows<D, Integers>(e, row, count, k, units, inputs, scales, zeros);
        switch (count) {
            case 1: few_rows<D, 1>(inputs, units, packed, units, e, row, p0, p1); continue;
            case 2: few_rows<D, 2>(inputs, units, packed, units, e, row, p0, p1); continue;
            case 3: few_rows<D, 3>(inputs, units, packed, units, e, row, p0, p1); continue;
            case 4: few_rows<D, 4>(inputs, units, packed, units, e, row, p0, p1); continue;
        }
        const int64_t tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
        for (int64_t panel = p0; panel < p1; ++panel)
            for (int64_t t = 0; t < tiles; ++t) {
                int64_t r0, r1;
                split(count, t, tiles, r0, r1);
                tile_of<D, 1>(int(r1 - r0))(inputs + r0 * units, units, packed + panel * units * PANEL, units, e, row + r0, r0, panel);
            }
    }
}

void gemm_step(const RecfxStep& step, const Context& context, const Range& range) {
    switch (step.ints[0]) {
        case 1: return gemm<DotBF16, false>(step, context, range);
        case 2: return gemm<DotI8, true>(step, context, range);
        default: return gemm<DotF32, false>(step, context, range);
    }
}
