// Pairwise dot products of a row's feature vectors, and the factorisation machine's second-order term.
#pragma once

// Dots of x with `count` <= W vectors of D dims, `stride` apart, into `out`.
inline void dots(const float* x, const float* others, int64_t stride, int64_t count, int64_t d, float* out) {
#if RECFX_LANES > 1
    if (count == W) {
        vf acc[W] = {};
        int64_t i = 0;
        for (; i + W <= d; i += W) {
            const vf v = load(x + i);
#pragma GCC unroll 16
            for (int j = 0; j < W; ++j) acc[j] = acc[j] + v * load(others + j * stride + i);
        }
        if (i < d) {
            const vf v = load_some(x + i, d - i);
            for (int j = 0; j < W; ++j) acc[j] = acc[j] + v * load_some(others + j * stride + i, d - i);
        }
        store(out, sums(acc));
        return;
    }
#endif
    for (int64_t j = 0; j < count; ++j) {
        vf acc = {};
        int64_t i = 0;
        for (; i + W <= d; i += W) acc = acc + load(x + i) * load(others + j * stride + i);
        if (i < d) acc = acc + load_some(x + i, d - i) * load_some(others + j * stride + i, d - i);
        out[j] = sum_lanes(acc);
    }
}

// ints: prefix columns, self interaction, upper. views: x [F, D], prefix [P].
void dot_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& x = step.views[0];
    const int64_t features = x.size[0], d = x.size[1], stride = x.stride[0], prefix = step.ints[0];
    const bool self = step.ints[1], upper = step.ints[2];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const float* vectors = at<const float>(context, x, row);
        float* out = at<float>(context, step.out, row);
        if (prefix) __builtin_memcpy(out, at<const float>(context, step.views[1], row), size_t(prefix) * 4);
        out += prefix;
        for (int64_t i = 0; i < features; ++i) {
            const int64_t first = upper ? (self ? i : i + 1) : 0, last = upper ? features : (self ? i + 1 : i);
            for (int64_t j = first; j < last; j += W) {
                const int64_t count = last - j < W ? last - j : W;
                // A group cut short by the triangle is widened backwards or forwards where vectors are there to be read: whole groups are faster.
                if (count < W && count > 2 && j + W <= features && W > 1) {
                    alignas(64) float lanes[W];
                    dots(vectors + i * stride, vectors + j * stride, stride, W, d, lanes);
                    __builtin_memcpy(out + (j - first), lanes, size_t(count) * 4);
                } else {
                    dots(vectors + i * stride, vectors + j * stride, stride, count, d, out + (j - first));
                }
            }
            out += last > first ? last - first : 0;
        }
    }
}

// ints: reduce. views: x [F, D].
void fm_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& x = step.views[0];
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
            const vf term = (sum * sum - squares) * 0.5f;
            if (step.ints[0]) total = total + term;
            else if (left >= W) store(out + i, term);
            else store_some(out + i, term, left);
        }
        if (step.ints[0]) out[0] = sum_lanes(total);
    }
}
