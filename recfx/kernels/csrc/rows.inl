// Along one axis: reductions, softmax and layer norm.
#pragma once
#include "activation.inl"
#include "functions.inl"
#include "kernels.h"

namespace recfx {
namespace {

// input [outer, r, inner]; out [outer, inner]. REDUCE_NORM is the root of the sum of squares.
void reduce_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &x = step.views[ReduceView::input], &out = step.out;
    const int64_t kind = step.ints[ReduceInt::reduction], outer = x.size[0], r = x.size[1], inner = x.size[2];
    const bool sums = kind == REDUCE_SUM || kind == REDUCE_MEAN || kind == REDUCE_NORM;
    auto combine = [kind, sums](vf a, vf b) {
        if (sums) return a + b;
        return kind == REDUCE_MAX ? (((a < b) | (b != b)) ? b : a) : (((a > b) | (b != b)) ? b : a);
    };
    const float factor = kind == REDUCE_MEAN ? 1.0f / float(r) : 1.0f;
    auto seen = [kind](vf v) { return kind == REDUCE_NORM ? v * v : v; };
    auto root = [kind](float v) { return kind == REDUCE_NORM ? __builtin_sqrtf(v) : v; };
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t o = 0; o < outer; ++o) {
            const float* p = at<const float>(context, x, row) + o * x.stride[0];
            float* to = at<float>(context, out, row) + o * out.stride[0];
            if (inner == 1 && x.stride[1] == 1) {
                vf acc = seen(r >= W ? load(p) : load_some(p, r));
                int64_t i = W;
                for (; i + W <= r; i += W) acc = combine(acc, seen(load(p + i)));
                const int64_t lanes = r < W ? r : W;
                float total = acc[0];
                if (sums) total = sum_lanes(acc);
                else
                    for (int64_t l = 1; l < lanes; ++l) total = combine(splat(total), splat(acc[l]))[0];
                for (; i < r; ++i) total = combine(splat(total), seen(splat(p[i])))[0];
                *to = kind == REDUCE_MEAN ? total / float(r) : root(total);
                continue;
            }
            for (int64_t c = 0; c < inner; c += W) {
                const int64_t left = inner - c;
                auto get = [&](int64_t i) { return seen(left >= W ? load(p + i * x.stride[1] + c) : load_some(p + i * x.stride[1] + c, left)); };
                vf acc = get(0);
                for (int64_t i = 1; i < r; ++i) acc = combine(acc, get(i));
                if (kind == REDUCE_MEAN) acc = acc * factor;
                if (kind == REDUCE_NORM) acc = square_root(acc);
                if (left >= W) store(to + c, acc);
                else store_some(to + c, acc, left);
            }
        }
}

// The first n of W lanes, the rest -inf, which changes neither a maximum nor a sum of exponentials.
inline vf load_low(const float* p, int64_t n) {
    if (n >= W) return load(p);
    const vf low = splat(-__builtin_inff());
#if RECFX_LANES == 16
    return (vf)_mm512_mask_loadu_ps((__m512)low, __mmask16((1u << n) - 1), p);
#else
    vf v = low;
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
}

inline float highest(vf v) {
#if RECFX_LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float high = v[0];
    for (int i = 1; i < W; ++i) high = v[i] > high ? v[i] : high;
    return high;
#endif
}

// Rows of up to N vectors stay in registers.
template <int N>
inline void softmax_short(const float* x, float* to, int64_t n) {
    vf v[N], high = load_low(x, n);
    v[0] = high;
    for (int i = 1; i < N; ++i) v[i] = load_low(x + i * W, n - i * W), high = max(v[i], high);
    const float top = highest(high);
    vf total = {};
    for (int i = 0; i < N; ++i) v[i] = exponential(v[i] - top), total = total + v[i];
    const float factor = 1.0f / sum_lanes(total);
    for (int i = 0; i < N; ++i) {
        if (n - i * W >= W) store(to + i * W, v[i] * factor);
        else store_some(to + i * W, v[i] * factor, n - i * W);
    }
}

// Softmax of n numbers, in place or not.
inline void softmax_row(const float* x, float* to, int64_t n) {
    if (n <= W) return softmax_short<1>(x, to, n);
    if (n <= 2 * W) return softmax_short<2>(x, to, n);
    if (n <= 3 * W) return softmax_short<3>(x, to, n);
    if (n <= 4 * W) return softmax_short<4>(x, to, n);
    vf high = load(x);
    for (int64_t i = W; i < n; i += W) high = max(load_low(x + i, n - i), high);
    const float top = highest(high);
    vf total = {};
    for (int64_t i = 0; i < n; i += W) {
        const vf e = exponential(load_low(x + i, n - i) - top);
        if (n - i >= W) store(to + i, e);
        else store_some(to + i, e, n - i);
        total = total + e;
    }
    const float factor = 1.0f / sum_lanes(total);
    int64_t i = 0;
    for (; i + W <= n; i += W) store(to + i, load(to + i) * factor);
    if (i < n) store_some(to + i, load_some(to + i, n - i) * factor, n - i);
}

// input and out [outer, n], the last dimension contiguous.
void softmax_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &x = step.views[SoftmaxView::input], &out = step.out;
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t o = 0; o < x.size[0]; ++o)
            softmax_row(at<const float>(context, x, row) + o * x.stride[0], at<float>(context, out, row) + o * out.stride[0], x.size[1]);
}

// out = activation(norm(input) * weight + bias) + residual over the last of [outer, n]. Dice over rows gates the input by the result of the norm.
void norm_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &x = step.views[NormView::input], &add = step.views[NormView::residual], &out = step.out;
    const int64_t n = x.size[1];
    const auto* weight = static_cast<const float*>(step.pointers[NormPointer::weight]);
    const auto* bias = static_cast<const float*>(step.pointers[NormPointer::bias]);
    const Activation activation = activation_of<NormInt, NormFloat, NormPointer>(step);
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t o = 0; o < x.size[0]; ++o) {
            const float* p = at<const float>(context, x, row) + o * x.stride[0];
            const float* residual = add.slot >= 0 ? at<const float>(context, add, row) + o * add.stride[0] : nullptr;
            float* to = at<float>(context, out, row) + o * out.stride[0];
            vf total = {};
            for (int64_t i = 0; i < n; i += W) total = total + (n - i >= W ? load(p + i) : load_some(p + i, n - i));
            const float mean = sum_lanes(total) / float(n);
            vf squares = {};
            for (int64_t i = 0; i < n; i += W) {
                vf d = (n - i >= W ? load(p + i) : load_some(p + i, n - i)) - mean;
                if (n - i < W)
                    for (int64_t l = n - i; l < W; ++l) d[l] = 0;
                squares = squares + d * d;
            }
            const float variance = sum_lanes(squares) / float(n);
            // A variance that overflows float32 makes the row NaN: with its inverse root, zero, the row would hold plausible numbers.
            const float inverse = variance <= __FLT_MAX__ ? 1.0f / __builtin_sqrtf(variance + float(step.floats[NormFloat::epsilon])) : __builtin_nanf("");
            for (int64_t i = 0; i < n; i += W) {
                const int64_t left = n - i;
                vf y = ((left >= W ? load(p + i) : load_some(p + i, left)) - mean) * inverse;
                if (weight) y = y * load(weight + i);
                if (bias) y = y + load(bias + i);
                if (activation.kind == ACT_ROW_DICE) y = row_dice(left >= W ? load(p + i) : load_some(p + i, left), y, activation, i);
                else if (activation.kind) y = activate(y, activation, i);
                if (residual) y = y + (left >= W ? load(residual + i) : load_some(residual + i, left));
                if (left >= W) store(to + i, y);
                else store_some(to + i, y, left);
            }
        }
}

}  // namespace
}  // namespace recfx
