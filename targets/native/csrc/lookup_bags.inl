// Bags: the sum or mean of the rows of some ids, or the rows side by side.
#pragma once

// Elements of the ids, and of the weights, of one batch row.
struct Bag {
    int64_t first, count, step;
    int64_t weights, weights_step;
};

// Where a feature's bag for a batch row lies; false, and an error, when its offsets are wrong.
inline bool find_bag(const RecfxFeature& f, const Context& c, const Range& range, int64_t row, int64_t inner, int64_t feature, Bag& bag) {
    if (f.length >= 0) {
        bag = {fixed_element(c, f.ids, f.ids_offset + inner * f.ids_row, row), f.length, f.ids_stride, 0, f.weights_stride};
        if (f.weights >= 0) bag.weights = fixed_element(c, f.weights, f.weights_offset + inner * f.weights_row, row);
        return true;
    }
    const Bound& offsets = c.slots[f.offsets];
    const int64_t limit = c.slots[f.ids].count, at = f.segment * range.batch + row;
    const bool held = at < offsets.count;
    const int64_t begin = held ? id_at(offsets, at) : -1, end = at + 1 < offsets.count ? id_at(offsets, at + 1) : limit;
    const int64_t weighted = f.weights >= 0 ? c.slots[f.weights].count : limit;
    if (begin < 0 || end < begin || end > limit || end > weighted) {
        c.errors->raise({2, c.step, feature, row, begin < 0 || begin > limit ? begin : end, limit});
        return false;
    }
    bag = {begin, end - begin, 1, begin, 1};
    return true;
}

// The ids of one bag and, for rows to ask for ahead, those of the next.
struct BagIds {
    const char *ids, *next;
    int64_t step, count, next_count;  // bytes from id to id
    const float* weights;
    int64_t weights_step;

    template <bool Wide, int64_t Bytes>
    __attribute__((always_inline)) inline void ask(const RecfxFeature& f, int64_t i) const {
        const int64_t past = i - count;
        if (past < 0) fetch<Bytes>(static_cast<const char*>(f.rows), f.row_bytes, uint64_t(f.row_count), id_of<Wide>(ids + i * step) + f.base);
        else if (past < next_count) fetch<Bytes>(static_cast<const char*>(f.rows), f.row_bytes, uint64_t(f.row_count), id_of<Wide>(next + past * step) + f.base);
    }
};

// The sum of a bag's rows of `Vectors` whole vectors, kept in registers; the number of rows added, or -1 with the id that is out of range.
template <int Format, bool Wide, int Vectors>
inline int64_t sum_bag(const RecfxFeature& f, const BagIds& bag, int64_t padding, int64_t& bad, float* out) {
    vf sum[Vectors] = {};
    int64_t added = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        bag.ask<Wide, bytes_of(Format, Vectors * W)>(f, i + ROWS_AHEAD);
        const int64_t id = id_of<Wide>(bag.ids + i * bag.step), at = id + f.base;
        if (id == padding) continue;
        if (uint64_t(at) >= uint64_t(f.row_count)) return bad = id, -1;
        const char* p = static_cast<const char*>(f.rows) + at * f.row_bytes;
        float scale = 0, bias = 0;
        scale_of<Format>(p, Vectors * W, scale, bias);
        const float weight = bag.weights ? bag.weights[i * bag.weights_step] : 1.0f;
        for (int v = 0; v < Vectors; ++v) sum[v] = sum[v] + row_values<Format>(p, v * W, scale, bias) * weight;
        ++added;
    }
    const float count = f.pooling == 1 && added > 1 ? float(added) : 1.0f;
    for (int v = 0; v < Vectors; ++v) store(out + v * W, count == 1.0f ? sum[v] : sum[v] / count);
    return added;
}

// The same for rows of any length, and for rows side by side.
template <int Format, bool Wide>
inline int64_t any_bag(const RecfxFeature& f, const BagIds& bag, int64_t padding, int64_t& bad, float* out) {
    const bool side_by_side = f.pooling == 2;
    int64_t added = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        bag.ask<Wide, 0>(f, i + ROWS_AHEAD);
        const int64_t id = id_of<Wide>(bag.ids + i * bag.step), at = id + f.base;
        float* to = side_by_side ? out + i * f.dim : out;
        if (id == padding) {
            if (side_by_side) __builtin_memset(to, 0, size_t(f.dim) * 4);
            continue;
        }
        if (uint64_t(at) >= uint64_t(f.row_count)) return bad = id, -1;
        take_row<Format>(f, at, bag.weights ? bag.weights[i * bag.weights_step] : 1.0f, bag.weights != nullptr, !side_by_side && added, to);
        ++added;
    }
    if (!side_by_side && !added) __builtin_memset(out, 0, size_t(f.dim) * 4);
    if (f.pooling == 1 && added > 1)
        for (int64_t d = 0; d < f.dim; ++d) out[d] /= float(added);
    return added;
}

// All bags of one feature for the batch rows [begin, end).
template <int Format, bool Wide>
inline void bags(const RecfxFeature& f, const Context& c, const Range& range, int64_t feature, int64_t begin, int64_t end, const RecfxView& view) {
    const char* ids = c.slots[f.ids].base;
    const auto* weights = f.weights >= 0 ? reinterpret_cast<const float*>(c.slots[f.weights].base) : nullptr;
    const int64_t padding = f.padding >= 0 ? f.padding : NEVER, size = Wide ? 8 : 4, inner_rows = view.size[0];
    const int64_t vectors = f.pooling == 2 || f.dim % W ? 0 : f.dim / W;
    Bag bag{}, next{};
    if (!find_bag(f, c, range, begin, 0, feature, next)) return;
    for (int64_t row = begin; row < end; ++row) {
        for (int64_t inner = 0; inner < inner_rows; ++inner) {
            bag = next;
            const bool same_row = inner + 1 < inner_rows;
            if (same_row || row + 1 < end) {
                if (!find_bag(f, c, range, same_row ? row : row + 1, same_row ? inner + 1 : 0, feature, next)) return;
            } else {
                next.count = 0;
            }
            const BagIds held{ids + bag.first * size, ids + next.first * size, bag.step * size, bag.count, next.count,
                              weights ? weights + bag.weights : nullptr, bag.weights_step};
            float* out = at<float>(c, view, row) + inner * view.stride[0] + f.output;
            int64_t added, bad = 0;
            switch (vectors) {
                case 1: added = sum_bag<Format, Wide, 1>(f, held, padding, bad, out); break;
                case 2: added = sum_bag<Format, Wide, 2>(f, held, padding, bad, out); break;
                case 4: added = sum_bag<Format, Wide, 4>(f, held, padding, bad, out); break;
                case 8: added = sum_bag<Format, Wide, 8>(f, held, padding, bad, out); break;
                default: added = any_bag<Format, Wide>(f, held, padding, bad, out);
            }
            if (added < 0) return c.errors->raise({1, c.step, feature, row, bad, f.row_count - f.base});
        }
    }
}
