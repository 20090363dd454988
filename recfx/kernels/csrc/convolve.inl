// Convolutions whose windows move by one element along contiguous rows. They read the windows in place.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

constexpr int64_t FOURS = 4;                     // outputs of a block of the weight
constexpr int VECTORS = RECFX_LANES == 16 ? 4 : 2;  // vectors of places in a tile: with four outputs each, they fill the registers

struct Window {
    int64_t channels, channel_stride, rows, row_stride, columns, column_stride;
    explicit Window(const int64_t* ints)
        : channels(ints[ConvolveInt::channels]), channel_stride(ints[ConvolveInt::channel_stride]), rows(ints[ConvolveInt::rows]),
          row_stride(ints[ConvolveInt::row_stride]), columns(ints[ConvolveInt::columns]), column_stride(ints[ConvolveInt::column_stride]) {}
    int64_t size() const { return channels * rows * columns; }
};

// Neighbouring places: where their windows begin, where their results go, and how many there are.
struct Places {
    int64_t from[VECTORS], to[VECTORS], count[VECTORS];
};

// MO outputs at NV vectors of places.
template <int MO, int NV, bool Whole>
inline void window_tile(const Window& w, const float* weight, const float* bias, const float* in, float* out, int64_t out_stride, const Places& at) {
    vf acc[MO][NV];
#pragma GCC unroll 4
    for (int r = 0; r < MO; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[r][v] = splat(bias ? bias[r] : 0.0f);
    for (int64_t c = 0; c < w.channels; ++c)
        for (int64_t i = 0; i < w.rows; ++i)
            for (int64_t j = 0; j < w.columns; ++j, weight += FOURS) {
                const float* p = in + c * w.channel_stride + i * w.row_stride + j * w.column_stride;
                vf x[NV];
#pragma GCC unroll 4
                for (int v = 0; v < NV; ++v) x[v] = Whole ? load(p + at.from[v]) : load_some(p + at.from[v], at.count[v]);
#pragma GCC unroll 4
                for (int r = 0; r < MO; ++r)
#pragma GCC unroll 4
                    for (int v = 0; v < NV; ++v) acc[r][v] += weight[r] * x[v];
            }
#pragma GCC unroll 4
    for (int r = 0; r < MO; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            float* to = out + r * out_stride + at.to[v];
            if (Whole) store(to, acc[r][v]);
            else store_some(to, acc[r][v], at.count[v]);
        }
}

template <int MO, int NV>
inline void window_tile_of(const Window& w, const float* weight, const float* bias, const float* in, float* out, int64_t out_stride, const Places& at) {
    bool whole = true;
    for (int v = 0; v < NV; ++v) whole &= at.count[v] == W;
    if (whole) window_tile<MO, NV, true>(w, weight, bias, in, out, out_stride, at);
    else window_tile<MO, NV, false>(w, weight, bias, in, out, out_stride, at);
}

template <int MO>
inline void window_row(const Window& w, const float* weight, const float* bias, const float* in, const RecfxView& x, float* out, const RecfxView& o) {
    const int64_t blocks = (o.size[2] + W - 1) / W, all = o.size[1] * blocks;
    for (int64_t first = 0; first < all; first += VECTORS) {
        Places at;
        const int count = int(all - first < VECTORS ? all - first : VECTORS);
        for (int v = 0; v < count; ++v) {
            const int64_t y = (first + v) / blocks, column = (first + v) % blocks * W;
            at.from[v] = y * x.stride[0] + column;
            at.to[v] = y * o.stride[1] + column;
            at.count[v] = o.size[2] - column < W ? o.size[2] - column : W;
        }
        if (count == VECTORS) {
            window_tile_of<MO, VECTORS>(w, weight, bias, in, out, o.stride[0], at);
            continue;
        }
        for (int v = 0; v < count; ++v) {
            const Places one{{at.from[v]}, {at.to[v]}, {at.count[v]}};
            window_tile_of<MO, 1>(w, weight, bias, in, out, o.stride[0], one);
        }
    }
}

// input [y, x]; out [outputs, y, x].
void convolve_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView &x = step.views[ConvolveView::input], &out = step.out;
    const Window window(step.ints);
    const auto* weight = static_cast<const float*>(step.pointers[ConvolvePointer::weight]);
    const auto* bias = static_cast<const float*>(step.pointers[ConvolvePointer::bias]);
    const int64_t blocks = (out.size[0] + FOURS - 1) / FOURS;
    int64_t begin, end;
    split((range.end - range.begin) * blocks, range.part, range.parts, begin, end);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t row = range.begin + item / blocks, first = item % blocks * FOURS, left = out.size[0] - first;
        const float* from = at<const float>(context, x, row);
        float* to = at<float>(context, out, row) + first * out.stride[0];
        const float* own = weight + first * window.size();
        const float* shift = bias ? bias + first : nullptr;
        const int64_t count = left < FOURS ? left : FOURS;
        switch (count) {
            case 1: window_row<1>(window, own, shift, from, x, to, out); break;
            case 2: window_row<2>(window, own, shift, from, x, to, out); break;
            case 3: window_row<3>(window, own, shift, from, x, to, out); break;
            default: window_row<4>(window, own, shift, from, x, to, out); break;
        }
    }
}

}  // namespace
}  // namespace recfx
