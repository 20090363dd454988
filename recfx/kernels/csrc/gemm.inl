// y = activation(x W^T * scale + bias) * mul + add, or activation(x W^T * scale + bias + mul + add), for float32, bfloat16 and int8 weights.
#pragma once
#include "tiles.inl"

namespace recfx {
namespace {

struct GemmRows {
    const RecfxView *x, *mul, *add, *out;
    int64_t first, per_batch;  // batch row of row 0; rows of one batch row
};

// The input of row `row`; sets the destination of its result.
inline const float* place_row(const Context& context, const GemmRows& rows, int64_t row, EpilogueRow& r) {
    const int64_t batch = rows.first + row / rows.per_batch, inner = row % rows.per_batch;
    r.mul = rows.mul->slot < 0 ? nullptr : at<const float>(context, *rows.mul, batch) + inner * rows.mul->stride[0];
    r.add = rows.add->slot < 0 ? nullptr : at<const float>(context, *rows.add, batch) + inner * rows.add->stride[0];
    r.out = at<float>(context, *rows.out, batch) + inner * rows.out->stride[0];
    return at<const float>(context, *rows.x, batch) + inner * rows.x->stride[0];
}

// The rows of a GEMM's input, as a `Source`.
template <class D, bool Integers>
struct GemmSource {
    static constexpr int64_t DEEP_ROWS = TILE_ROWS;
    const Context& context;
    const GemmRows& rows;
    int64_t inputs;
    float input_scale;
    const float* factors;    // of the columns of an int8 input; nullptr: ones
    float* scaled = nullptr;  // one row, multiplied by them

    size_t bytes(int64_t, int64_t) const { return factors ? size_t(inputs + W) * 4 : 0; }
    void hold(char* memory, int64_t, int64_t) { scaled = reinterpret_cast<float*>(memory); }

    void fill(int64_t first, int64_t count, int64_t slab, int64_t units, const Chunk& chunk) const {
        const int64_t from = slab * D::depth;
        const int64_t k = inputs - from < units * D::depth ? inputs - from : units * D::depth;
        for (int64_t i = 0; i < count; ++i) {
            EpilogueRow& r = chunk.rows[i];
            const float* x = place_row(context, rows, first + i, r) + from;
            if constexpr (Integers) {
                uint32_t* to = chunk.units + i * chunk.row_units;
                const bool finite = factors ? quantize_scaled_row<D>(x, factors, k, units, input_scale, scaled, to, r.scale, r.zero)
                                            : quantize_row<D>(x, k, units, input_scale, to, r.scale, r.zero);
                r.not_finite = finite ? nullptr : x;
            } else row_units<D>(x, k, units, chunk.units + i * chunk.row_units);
        }
    }
};

// A float32 product with one column: as a tile it would fill one lane of 2 W. Its sums run over the lanes of k, for any number of rows alike.
inline void one_column(const RecfxStep& step, const Context& context, const Range& range) {
    const int64_t k = step.ints[GemmInt::inputs];
    const RecfxView& x = step.views[GemmView::input];
    const GemmRows rows{&x, &step.views[GemmView::factor], &step.views[GemmView::summand], &step.out, range.begin, x.size[0]};
    auto* weight = static_cast<float*>(context.scratch->at_least(size_t(k) * 4));
    if (!weight) return context.errors->no_memory(context.step, k * 4);
    for (int64_t i = 0; i < k; ++i) weight[i] = static_cast<const float*>(step.pointers[GemmPointer::weight])[i * PANEL];
    Epilogue e = epilogue_of<GemmInt, GemmFloat, GemmPointer>(step);
    e.sums_first = step.ints[GemmInt::sums_first] != 0;
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
    const int64_t format = step.ints[GemmInt::format], n = step.ints[GemmInt::outputs], k = step.ints[GemmInt::inputs];
#if RECFX_HAS_AMX
    if (format == WEIGHT_F32) return level_avx512_bf16()->steps.of_kind[RECFX_GEMM](step, context, range);
#endif
    if (format == WEIGHT_F32 && n == 1) return one_column(step, context, range);
    const RecfxView& x = step.views[GemmView::input];
    const GemmRows rows{&x, &step.views[GemmView::factor], &step.views[GemmView::summand], &step.out, range.begin, x.size[0]};
    Epilogue e = epilogue_of<GemmInt, GemmFloat, GemmPointer>(step);
    e.sums_first = step.ints[GemmInt::sums_first] != 0;
    e.plain = e.plain && rows.mul->slot < 0 && rows.add->slot < 0;
    const PackedProduct product{(range.end - range.begin) * x.size[0], n, k, static_cast<const uint32_t*>(step.pointers[GemmPointer::weight])};
    with_format(format, [&](auto dot, auto integers) {
        const auto* factors = static_cast<const float*>(step.pointers[GemmPointer::factors]);
        GemmSource<decltype(dot), integers.value> source{context, rows, k, float(step.floats[GemmFloat::input_scale]), factors};
        multiply_rows<decltype(dot), integers.value>(product, e, source, context, range);
    });
}

}  // namespace
}  // namespace recfx
