// Bags: the sum or mean of the rows of some ids, or the rows side by side.
#pragma once
#include "lookup_ids.inl"
#include "lookup_rows.inl"

namespace recfx {
namespace {

// Elements of the ids, and of the weights, of one batch row.
struct Bag {
    int64_t first, count, step;
    int64_t weights, weights_step;
};

// Whether a bag is the last of an embedding bag whose offsets hold its end, in a mode in which torch's operator counts ids behind that end as
// well: all modes but sums without padding. Weighted means are not torch's.
inline bool ends_all_bags(const RecfxFeature& f, const Bound& offsets, int64_t bag) {
    const bool counted = f.pooling == POOL_MEAN ? f.weights < 0 : f.padding >= 0;
    return counted && f.last && f.segments == 1 && bag + 2 == offsets.count;
}

// Finds the bag of a feature for a batch row. False, after raising an error, if its offsets are wrong.
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
    const bool starts = begin >= 0 && (at > 0 || begin == 0);
    if (!starts || end < begin || end > limit || end > weighted) {
        c.errors->bad_offsets(c.step, feature, row, !starts || begin > limit ? begin : end, limit);
        return false;
    }
    if (end < limit && ends_all_bags(f, offsets, at)) {
        c.errors->ids_behind_bags(c.step, feature, row, end, limit);
        return false;
    }
    bag = {begin, end - begin, 1, begin, 1};
    return true;
}

// The ids of one bag.
struct BagIds {
    const char* ids;
    int64_t step, count;  // bytes from id to id
    const float* weights;
    int64_t weights_step;
};

// Walks the ids of all bags of a feature in the order of the sums, some rows ahead.
struct Ahead {
    const char *base, *at;
    int64_t step, length, inner_bytes, inner_rows, row_bytes, rows;  // bytes from id to id, from bag to bag of a batch row, from batch row to batch row
    int64_t i = 0, inner = 0, row = 0;

    // From batch row `begin` on. Jagged bags are adjacent in memory: they are walked as one.
    Ahead(const RecfxFeature& f, const Context& c, const Range& range, int64_t begin, int64_t end, int64_t inners) {
        const Bound& slot = c.slots[f.ids];
        const int64_t size = size_of(slot.dtype);
        if (f.length < 0) {
            const Bound& offsets = c.slots[f.offsets];
            const int64_t from = f.segment * range.batch + begin, to = f.segment * range.batch + end;
            const int64_t first = from < offsets.count ? id_at(offsets, from) : 0, last = to < offsets.count ? id_at(offsets, to) : slot.count;
            const bool held = first >= 0 && first < last && last <= slot.count;
            base = slot.base + (held ? first : 0) * size;
            step = size, length = held ? last - first : 0, inner_bytes = 0, inner_rows = 1, row_bytes = 0, rows = length > 0;
        } else {
            base = slot.base + fixed_element(c, f.ids, f.ids_offset, begin) * size;
            step = f.ids_stride * size, length = f.length, inner_bytes = f.ids_row * size, inner_rows = inners, row_bytes = slot.row_stride * size;
            rows = length > 0 ? end - begin : 0;
        }
        at = base;
    }

    // The next id; null after the last.
    __attribute__((always_inline)) inline const char* next() {
        if (row >= rows) return nullptr;
        const char* id = at;
        at += step;
        if (++i == length) {
            i = 0;
            if (++inner == inner_rows) inner = 0, ++row;
            at = base + row * row_bytes + inner * inner_bytes;
        }
        return id;
    }

    // Prefetches the next row; false after the last id.
    template <bool Wide, int64_t Bytes>
    __attribute__((always_inline)) inline bool ask(const RecfxFeature& f) {
        const char* id = next();
        if (id) fetch<Bytes>(static_cast<const char*>(f.rows), f.row_bytes, uint64_t(f.row_count), moved(id_of<Wide>(id), f.base));
        return id != nullptr;
    }
};

// The sum of a bag's rows of `Vectors` whole vectors, kept in registers. Returns the number of rows added, or -1 and the id that is out of range.
template <int Format, bool Wide, int Vectors>
inline int64_t sum_bag(const RecfxFeature& f, const BagIds& bag, Ahead& ahead, int64_t padding, int64_t& bad, float* out) {
    vf sum[Vectors] = {};
    int64_t added = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        ahead.ask<Wide, bytes_of(Format, Vectors * W)>(f);
        const int64_t id = id_of<Wide>(bag.ids + i * bag.step), at = moved(id, f.base);
        if (id == padding && padding != NEVER) continue;
        if (uint64_t(at) >= uint64_t(f.row_count)) return bad = id, -1;
        const char* p = static_cast<const char*>(f.rows) + at * f.row_bytes;
        float scale = 0, bias = 0;
        scale_of<Format>(p, Vectors * W, scale, bias);
        const float weight = bag.weights ? bag.weights[i * bag.weights_step] : 1.0f;
        for (int v = 0; v < Vectors; ++v) sum[v] = sum[v] + row_values<Format>(p, v * W, scale, bias) * weight;
        ++added;
    }
    const float count = f.pooling == POOL_MEAN && added > 1 ? float(added) : 1.0f;
    for (int v = 0; v < Vectors; ++v) store(out + v * W, count == 1.0f ? sum[v] : sum[v] / count);
    return added;
}

// The same for rows of any length, and for rows side by side.
template <int Format, bool Wide>
inline int64_t any_bag(const RecfxFeature& f, const BagIds& bag, Ahead& ahead, int64_t padding, int64_t& bad, float* out) {
    const bool side_by_side = f.pooling == POOL_NONE;
    int64_t added = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        ahead.ask<Wide, 0>(f);
        const int64_t id = id_of<Wide>(bag.ids + i * bag.step), at = moved(id, f.base);
        float* to = side_by_side ? out + i * f.dim : out;
        if (id == padding && padding != NEVER) {
            if (side_by_side) __builtin_memset(to, 0, size_t(f.dim) * 4);
            continue;
        }
        if (uint64_t(at) >= uint64_t(f.row_count)) return bad = id, -1;
        take_row<Format>(f, at, bag.weights ? bag.weights[i * bag.weights_step] : 1.0f, bag.weights != nullptr, !side_by_side && added, to);
        ++added;
    }
    if (!side_by_side && !added) __builtin_memset(out, 0, size_t(f.dim) * 4);
    if (f.pooling == POOL_MEAN && added > 1)
        for (int64_t d = 0; d < f.dim; ++d) out[d] /= float(added);
    return added;
}

// All bags of one feature for the batch rows [begin, end).
template <int Format, bool Wide>
inline void bags(const RecfxFeature& f, const Context& c, const Range& range, int64_t feature, int64_t begin, int64_t end, const RecfxView& view) {
    const char* ids = c.slots[f.ids].base;
    const auto* weights = f.weights >= 0 ? reinterpret_cast<const float*>(c.slots[f.weights].base) : nullptr;
    const int64_t padding = f.padding >= 0 ? f.padding : NEVER, size = Wide ? 8 : 4, inner_rows = view.size[0];
    const int64_t vectors = f.pooling == POOL_NONE || f.dim % W ? 0 : f.dim / W;
    Ahead ahead(f, c, range, begin, end, inner_rows);
    for (int64_t asked = rows_ahead(f); asked > 0 && ahead.next(); --asked) {}  // `announce` has prefetched them
    for (int64_t row = begin; row < end; ++row) {
        for (int64_t inner = 0; inner < inner_rows; ++inner) {
            Bag bag{};
            if (!find_bag(f, c, range, row, inner, feature, bag)) return;
            const BagIds held{ids + bag.first * size, bag.step * size, bag.count, weights ? weights + bag.weights : nullptr, bag.weights_step};
            float* out = at<float>(c, view, row) + inner * view.stride[0] + f.output;
            int64_t added, bad = 0;
            switch (vectors) {
                case 1: added = sum_bag<Format, Wide, 1>(f, held, ahead, padding, bad, out); break;
                case 2: added = sum_bag<Format, Wide, 2>(f, held, ahead, padding, bad, out); break;
                case 4: added = sum_bag<Format, Wide, 4>(f, held, ahead, padding, bad, out); break;
                case 8: added = sum_bag<Format, Wide, 8>(f, held, ahead, padding, bad, out); break;
                default: added = any_bag<Format, Wide>(f, held, ahead, padding, bad, out);
            }
            if (added < 0) return c.errors->bad_id(c.step, feature, row, bad, f.row_count - f.base);
        }
    }
}

}  // namespace
}  // namespace recfx
