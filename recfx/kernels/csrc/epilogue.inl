// What follows the sums of a product: scales, a bias, an activation, a factor and a summand for each row.
#pragma once
#include "activation.inl"
#include "kernels.h"
#include "pack.inl"

namespace recfx {
namespace {

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

    int64_t partial_row() const { return (n + PANEL - 1) / PANEL * PANEL; }
    float* partial_at(int64_t chunk_row, int64_t column) const { return partial + chunk_row * partial_row() + column; }

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

// The epilogue of a step. Int, Float and Pointer are the enumerations that name its arguments.
template <class Int, class Float, class Pointer>
inline Epilogue epilogue_of(const RecfxStep& step) {
    const Activation activation = activation_of<Int, Float, Pointer>(step);
    return {activation, static_cast<const float*>(step.pointers[Pointer::bias]), static_cast<const float*>(step.pointers[Pointer::scale]),
            static_cast<const int32_t*>(step.pointers[Pointer::column_sums]), nullptr, step.ints[Int::outputs], false, activation.kind <= ACT_RELU};
}

// Inputs and weights of a product: rows of `units` units, `row_units` apart; panels `panel_units` apart.
struct Operands {
    const uint32_t *a, *b;
    int64_t row_units, panel_units, units;

    Operands from(int64_t row, int64_t panel) const { return {a + row * row_units, b + panel * panel_units, row_units, panel_units, units}; }
};

// Whether at most half of a panel's columns are columns of the product.
inline bool half(const Epilogue& e, int64_t panel) { return e.n - panel * PANEL <= W; }

}  // namespace
}  // namespace recfx
