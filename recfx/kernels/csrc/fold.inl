// Along one axis, in any dtype: extremes and their positions, whether any or all elements are true, products, spread, running sums.
#pragma once
#include "kernels.h"

namespace recfx {
namespace {

// The position of the first extreme, or of the first NaN if there is one.
template <class T, bool Largest>
inline int64_t extreme(const T* p, int64_t stride, int64_t n) {
    int64_t best = 0;
    T held = p[0];
    for (int64_t i = 1; i < n && held == held; ++i) {
        const T x = p[i * stride];
        if (Largest ? x > held : x < held) best = i, held = x;
        else if (x != x) best = i, held = x;
    }
    return best;
}

template <class T>
inline bool truthy(const T* p, int64_t stride, int64_t n, bool all) {
    for (int64_t i = 0; i < n; ++i)
        if ((p[i * stride] != T(0)) != all) return !all;
    return all;
}

// A whole number as an element of the output.
inline void put_whole(const Bound& slot, int64_t element, int64_t value) {
    switch (slot.dtype) {
        case RECFX_F32: reinterpret_cast<float*>(slot.base)[element] = float(value); break;
        case RECFX_I32: reinterpret_cast<int32_t*>(slot.base)[element] = int32_t(value); break;
        case RECFX_U8: reinterpret_cast<uint8_t*>(slot.base)[element] = value != 0; break;
        default: reinterpret_cast<int64_t*>(slot.base)[element] = value;
    }
}

template <class T>
inline void fold_one(int64_t op, const T* p, int64_t stride, int64_t n, const Bound& slot, int64_t element) {
    switch (op) {
        case FOLD_ARGMAX: return put_whole(slot, element, extreme<T, true>(p, stride, n));
        case FOLD_ARGMIN: return put_whole(slot, element, extreme<T, false>(p, stride, n));
        case FOLD_ANY: return put_whole(slot, element, truthy(p, stride, n, false));
        case FOLD_ALL: return put_whole(slot, element, truthy(p, stride, n, true));
        case FOLD_COUNT: {
            int64_t count = 0;
            for (int64_t i = 0; i < n; ++i) count += p[i * stride] != T(0);
            return put_whole(slot, element, count);
        }
        case FOLD_PRODUCT:
            if constexpr (__is_same(T, float)) {
                float product = 1;
                for (int64_t i = 0; i < n; ++i) product *= p[i * stride];
                reinterpret_cast<float*>(slot.base)[element] = product;
            } else {
                uint64_t product = 1;
                for (int64_t i = 0; i < n; ++i) product *= uint64_t(int64_t(p[i * stride]));
                put_whole(slot, element, int64_t(product));
            }
            return;
        default: {
            const T found = p[(op == FOLD_MAX ? extreme<T, true>(p, stride, n) : extreme<T, false>(p, stride, n)) * stride];
            reinterpret_cast<T*>(slot.base)[element] = found;
        }
    }
}

// f(first element read, its stride along the axis, element written) for each row, outer and inner position.
template <class F>
inline void along_axis(const RecfxStep& step, const RecfxView& x, const Context& context, const Range& range, F f) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& out = step.out;
    const Bound &from = context.slots[x.slot], &to = context.slots[out.slot];
    const int64_t inner_stride = out.stride[out.rank - 1];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const int64_t first = (row - from.first_row) * from.row_stride + x.offset, target = (row - to.first_row) * to.row_stride + out.offset;
        for (int64_t o = 0; o < x.size[0]; ++o)
            for (int64_t c = 0; c < x.size[2]; ++c)
                f(from, first + o * x.stride[0] + c * x.stride[2], to, target + o * out.stride[0] + c * inner_stride);
    }
}

template <class T>
inline const T* element_of(const Bound& slot, int64_t element) {
    return reinterpret_cast<const T*>(slot.base) + element;
}

// input [outer, r, inner]; out [outer, inner].
void fold_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& x = step.views[FoldView::input];
    const int64_t op = step.ints[FoldInt::fold], n = x.size[1], stride = x.stride[1];
    along_axis(step, x, context, range, [&](const Bound& from, int64_t first, const Bound& to, int64_t target) {
        switch (from.dtype) {
            case RECFX_I64: return fold_one(op, element_of<int64_t>(from, first), stride, n, to, target);
            case RECFX_I32: return fold_one(op, element_of<int32_t>(from, first), stride, n, to, target);
            case RECFX_U8: return fold_one(op, element_of<uint8_t>(from, first), stride, n, to, target);
            default: return fold_one(op, element_of<float>(from, first), stride, n, to, target);
        }
    });
}

// Sums of f(element) in double precision, eight at a time.
template <class F>
inline double double_sum(const float* p, int64_t stride, int64_t n, F f) {
    double sums[8] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int64_t l = 0; l < 8; ++l) sums[l] += f(double(p[(i + l) * stride]));
    for (; i < n; ++i) sums[0] += f(double(p[i * stride]));
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

// Variance, or its square root. input [outer, r, inner]; out [outer, inner].
void spread_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& x = step.views[SpreadView::input];
    const int64_t n = x.size[1], stride = x.stride[1];
    const double left = double(n) - step.floats[SpreadFloat::correction], divisor = left > 0 ? left : 0;
    along_axis(step, x, context, range, [&](const Bound& from, int64_t first, const Bound& to, int64_t target) {
        const float* p = element_of<float>(from, first);
        const double mean = double_sum(p, stride, n, [](double x) { return x; }) / double(n);
        const double variance = double_sum(p, stride, n, [mean](double x) { return (x - mean) * (x - mean); }) / divisor;
        reinterpret_cast<float*>(to.base)[target] = float(step.ints[SpreadInt::deviation] ? __builtin_sqrt(variance) : variance);
    });
}

// Running sums, or products, of float32 in double precision. input and out [outer, r, inner].
void running_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& x = step.views[RunningView::input];
    const int64_t n = x.size[1], stride = x.stride[1], by = step.out.stride[1];
    const bool products = step.ints[RunningInt::products] != 0;
    along_axis(step, x, context, range, [&](const Bound& from, int64_t first, const Bound& to, int64_t target) {
        const float* p = element_of<float>(from, first);
        float* q = reinterpret_cast<float*>(to.base) + target;
        double total = products ? 1 : 0;
        for (int64_t i = 0; i < n; ++i) {
            total = products ? total * double(p[i * stride]) : total + double(p[i * stride]);
            q[i * by] = float(total);
        }
    });
}

// Elements start + by * i, counted through all rows.
void row_numbers_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const Bound& to = context.slots[step.out.slot];
    const int64_t start = step.ints[RowNumbersInt::start], by = step.ints[RowNumbersInt::step], count = step.ints[RowNumbersInt::count];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t i = 0; i < count; ++i)
            put_whole(to, (row - to.first_row) * to.row_stride + step.out.offset + i, start + by * (row * count + i));
}

}  // namespace
}  // namespace recfx
