// The positions of the first elements along an axis, in order.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

constexpr int64_t RANKED = 160;  // up to this many elements, counting for each how many come before it is faster than sorting

// One call of order_step. Lists are numbered over the rows of the batch, the outer and the inner positions.
struct Order {
    const RecfxStep& step;
    const Bound &from, &to;
    int64_t first_row, n, k;
    bool largest;
    int64_t ties;
    bool rising;

    // The first element of a list in a view, and the distance of its elements.
    static int64_t start(const Bound& slot, const RecfxView& view, int64_t row, int64_t o, int64_t c) {
        return (row - slot.first_row) * slot.row_stride + view.offset + o * view.stride[0] + c * view.stride[2];
    }
    void place(int64_t list, int64_t& read, int64_t& written) const {
        const RecfxView& x = step.views[OrderView::input];
        const int64_t c = list % x.size[2], o = list / x.size[2] % x.size[0], row = first_row + list / (x.size[2] * x.size[0]);
        read = start(from, x, row, o, c);
        written = start(to, step.out, row, o, c);
    }
    int64_t read_stride() const { return step.views[OrderView::input].stride[1]; }
    int64_t* out(int64_t written) const { return reinterpret_cast<int64_t*>(to.base) + written; }
};

template <class T>
inline const T& element(const Bound& slot, int64_t index) {
    return reinterpret_cast<const T*>(slot.base)[index];
}

inline int64_t whole_element(const Bound& slot, int64_t index) {
    switch (slot.dtype) {
        case RECFX_I64: return element<int64_t>(slot, index);
        case RECFX_I32: return element<int32_t>(slot, index);
        default: return element<uint8_t>(slot, index);
    }
}

// One list by the standard library.
inline void order_alone(const Order& order, int64_t list, char* scratch) {
    int64_t read, written;
    order.place(list, read, written);
    auto* positions = reinterpret_cast<int64_t*>(scratch + order.n * 16);
    char* keys = scratch + order.n * 24;
    const int64_t by = order.read_stride();
    if (order.from.dtype == RECFX_F32) {
        auto* floats = reinterpret_cast<float*>(keys);
        for (int64_t i = 0; i < order.n; ++i) floats[i] = element<float>(order.from, read + i * by);
        order_floats(floats, order.n, order.k, order.largest, order.ties, scratch, positions);
    } else {
        auto* whole = reinterpret_cast<int64_t*>(keys);
        for (int64_t i = 0; i < order.n; ++i) whole[i] = whole_element(order.from, read + i * by);
        order_whole(whole, order.n, order.k, order.largest, order.ties, scratch, positions);
    }
    int64_t* out = order.out(written);
    const int64_t to = order.step.out.stride[1];
    if (order.rising) {
        auto* chosen = reinterpret_cast<uint8_t*>(scratch);
        for (int64_t i = 0; i < order.n; ++i) chosen[i] = 0;
        for (int64_t i = 0; i < order.k; ++i) chosen[positions[i]] = 1;
        for (int64_t i = 0, next = 0; i < order.n; ++i)
            if (chosen[i]) out[next++ * to] = i;
    } else
        for (int64_t i = 0; i < order.k; ++i) out[i * to] = positions[i];
}

#if RECFX_LANES > 1
// Loads element i of each lane's list; lanes without a list repeat the last one. Returns false if a whole number does not fit in a lane.
inline bool load_lists(const Order& order, const int64_t (&read)[W], vf* floats) {
    const int64_t by = order.read_stride();
    bool fits = true;
    if (order.from.dtype != RECFX_F32) {
        for (int64_t i = 0; i < order.n; ++i) {
            vi v;
            for (int lane = 0; lane < W; ++lane) {
                const int64_t x = whole_element(order.from, read[lane] + i * by);
                v[lane] = int32_t(x);
                fits &= x == int64_t(int32_t(x));
            }
            floats[i] = as_float(v);
        }
        return fits;
    }
    const float* base = reinterpret_cast<const float*>(order.from.base);
    bool neighbours = true;
    for (int lane = 0; lane < W; ++lane) neighbours &= read[lane] == read[0] + lane;
    if (neighbours) {
        for (int64_t i = 0; i < order.n; ++i) floats[i] = load(base + read[0] + i * by);
        return true;
    }
    for (int64_t i = 0; i < order.n; ++i)
        for (int lane = 0; lane < W; ++lane) floats[i][lane] = base[read[lane] + i * by];
    return true;
}

// For each element, how many come before it. Returns the lanes (-1) in which equal keys or NaN leave the order to the standard library.
template <class V>
inline vi count_before(const vf* keys, vi* before, int64_t n, bool largest, bool stable) {
    vi total = {}, undecided = {};
    for (int64_t i = 0; i < n; ++i) before[i] = vi{};
    for (int64_t i = 0; i < n; ++i) {
        const V x = (V)keys[i];
        undecided |= (vi)(x != x);
        vi mine = before[i];
        for (int64_t j = i + 1; j < n; ++j) {
            const V y = (V)keys[j];
            const vi later = largest ? (vi)(y > x) : (vi)(y < x);  // -1 where y comes before x
            const vi earlier = stable ? ~later : largest ? (vi)(x > y) : (vi)(x < y);
            mine -= later;
            before[j] -= earlier;
        }
        before[i] = mine;
        total += mine;
    }
    // Every decided pair has counted once.
    if (!stable) undecided |= (vi)(total != splat(int32_t(n * (n - 1) / 2)));
    return undecided;
}

inline void order_lanes(const Order& order, int64_t list, int64_t lists, char* scratch) {
    int64_t read[W], written[W];
    for (int lane = 0; lane < W; ++lane) order.place(list + (lane < lists ? lane : lists - 1), read[lane], written[lane]);
    char* own = scratch + order.n * 32;
    auto* keys = reinterpret_cast<vf*>(own + (64 - reinterpret_cast<uintptr_t>(own) % 64) % 64);
    auto* before = reinterpret_cast<vi*>(keys + order.n);
    const bool fits = load_lists(order, read, keys), stable = order.ties == TIES_STABLE;
    vi undecided = splat(int32_t(-1));
    if (fits && order.ties != TIES_CHOSEN_UNSORTED)
        undecided = order.from.dtype == RECFX_F32 ? count_before<vf>(keys, before, order.n, order.largest, stable)
                                                  : count_before<vi>(keys, before, order.n, order.largest, stable);
    const int64_t by = order.step.out.stride[1];
    for (int lane = 0; lane < W && lane < lists; ++lane) {
        if (undecided[lane]) {
            order_alone(order, list + lane, scratch);
            continue;
        }
        int64_t* out = order.out(written[lane]);
        const int32_t* places = reinterpret_cast<const int32_t*>(before) + lane;
        if (order.rising) {
            for (int64_t i = 0, next = 0; i < order.n; ++i)
                if (places[i * W] < order.k) out[next++ * by] = i;
            continue;
        }
        for (int64_t i = 0; i < order.n; ++i)
            if (places[i * W] < order.k) out[places[i * W] * by] = i;
    }
}
#endif

// input [outer, n, inner]; out int64 [outer, k, inner].
void order_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& x = step.views[OrderView::input];
    const int64_t a_row = x.size[0] * x.size[2], n = x.size[1];
    int64_t begin, end;
    split((range.end - range.begin) * a_row, range.part, range.parts, begin, end);
    const Order order{step,       context.slots[x.slot], context.slots[step.out.slot], range.begin, n,
                      step.out.size[1], step.ints[OrderInt::largest] != 0, step.ints[OrderInt::ties],
                      step.ints[OrderInt::rising] != 0};
    const int64_t bytes = n * 32 + (n <= RANKED ? n * 8 * W + 64 : 0);
    char* scratch = static_cast<char*>(context.scratch->at_least(size_t(bytes)));
    if (!scratch) return context.errors->no_memory(context.step, bytes);
    int64_t list = begin;
#if RECFX_LANES > 1
    if (n <= RANKED)
        for (; list < end; list += W) order_lanes(order, list, end - list, scratch);
#endif
    for (; list < end; ++list) order_alone(order, list, scratch);
}

}  // namespace
}  // namespace recfx
