// Grouped lookup: rows of many tables, pooled and written into their columns. Every id is checked before its row is read.
#pragma once
#include "lookup_bags.inl"

namespace recfx {
namespace {

// One id a batch row, without weights and padding.
inline bool plain(const RecfxFeature& f) { return f.length == 1 && f.weights < 0 && f.padding < 0; }

// Prefetches the first rows of a feature, before the work on another feature. Forced inline for the same reason as `fetch`.
__attribute__((always_inline)) inline void announce(const RecfxFeature& f, const Context& c, const Range& range, int64_t begin, int64_t end, int64_t inner_rows) {
    Ahead first(f, c, range, begin, end, inner_rows);
    const bool wide = c.slots[f.ids].dtype == RECFX_I64;
    for (int64_t rows = rows_ahead(f); rows > 0; --rows)
        if (!(wide ? first.ask<true, 0>(f) : first.ask<false, 0>(f))) return;
}

// Ids that are `step` bytes apart, and their feature: of rows to copy, or of rows to prefetch.
struct Column {
    const RecfxFeature* feature;
    const char* ids;
    int64_t step, count;

    Column(const RecfxFeature& f, const Context& c, int64_t begin, int64_t rows) : feature(&f), count(rows) {
        const Bound& slot = c.slots[f.ids];
        ids = slot.base + fixed_element(c, f.ids, f.ids_offset, begin) * size_of(slot.dtype);
        step = slot.row_stride * size_of(slot.dtype);
    }

    Column upto(int64_t rows) const {
        Column fewer = *this;
        fewer.count = rows;
        return fewer;
    }

    Column from(int64_t row) const {
        Column later = *this;
        later.ids += row * step;
        later.count -= row;
        return later;
    }
};

// Copies one row of the table for each id. Returns the position of the first id out of range, or the number of ids. Vectors: 0 for any length.
template <int Format, bool Wide, int Vectors>
inline int64_t copy_rows(const Column& own, const Column& asked, float* out, int64_t out_stride) {
    const RecfxFeature f = *own.feature;  // local copies, which stores to the output cannot change
    const char *rows = static_cast<const char*>(f.rows), *asked_rows = static_cast<const char*>(asked.feature->rows);
    const int64_t asked_bytes = asked.feature->row_bytes, asked_base = asked.feature->base, step = own.step, asked_step = asked.step;
    const uint64_t limit = uint64_t(f.row_count), asked_limit = uint64_t(asked.feature->row_count);
    const char *ids = own.ids, *coming = asked.ids;
    const int64_t count = own.count, asks = asked.count;
    constexpr int64_t BYTES = bytes_of(Format, Vectors * W);
    const bool alike = Vectors > 0 && asked_bytes == BYTES;
    for (int64_t row = 0; row < count; ++row, ids += step, coming += asked_step, out += out_stride) {
        if (row < asks) {
            const int64_t next = moved(id_of<Wide>(coming), asked_base);
            if (alike) fetch<BYTES>(asked_rows, BYTES, asked_limit, next);
            else fetch<0>(asked_rows, asked_bytes, asked_limit, next);
        }
        const int64_t at = moved(id_of<Wide>(ids), f.base);
        if (uint64_t(at) >= limit) return row;
        if constexpr (Vectors > 0) {
            const char* p = rows + at * f.row_bytes;
            float scale = 0, bias = 0;
            scale_of<Format>(p, Vectors * W, scale, bias);
            for (int v = 0; v < Vectors; ++v) store(out + v * W, row_values<Format>(p, v * W, scale, bias));
        } else {
            take_row<Format>(f, at, 1.0f, false, false, out);
        }
    }
    return count;
}

// The work of a lookup step: batch rows [begin, end), and the feature whose first rows are prefetched meanwhile, if any.
struct Work {
    const Context& context;
    const Range& range;
    const RecfxView& out;
    int64_t begin, end, feature;
    const RecfxFeature* next;
};

template <int Format, bool Wide>
inline int64_t copy(const Column& own, const Column& asked, float* out, int64_t stride) {
    switch (own.feature->dim % W ? 0 : own.feature->dim / W) {
        case 1: return copy_rows<Format, Wide, 1>(own, asked, out, stride);
        case 2: return copy_rows<Format, Wide, 2>(own, asked, out, stride);
        case 4: return copy_rows<Format, Wide, 4>(own, asked, out, stride);
        case 8: return copy_rows<Format, Wide, 8>(own, asked, out, stride);
        default: return copy_rows<Format, Wide, 0>(own, asked, out, stride);
    }
}

// All rows of a plain feature. Copies of the first rows overlap prefetches of its later ones, those of the last rows prefetches of the next feature.
template <int Format, bool Wide>
inline void copies(const RecfxFeature& f, const Work& w) {
    const Context& c = w.context;
    float* out = at<float>(c, w.out, w.begin) + f.output;
    const int64_t stride = c.slots[w.out.slot].row_stride;
    const Column own(f, c, w.begin, w.end - w.begin);
    const int64_t ahead = rows_ahead(f), first = own.count > ahead ? own.count - ahead : 0;
    Column next = own.from(own.count);
    if (w.next) {
        if (plain(*w.next) && c.slots[w.next->ids].dtype == c.slots[f.ids].dtype) next = Column(*w.next, c, w.begin, own.count - first);
        else announce(*w.next, c, w.range, w.begin, w.end, w.out.size[0]);
    }
    int64_t done = first ? copy<Format, Wide>(own.upto(first), own.from(ahead), out, stride) : 0;
    if (done == first) done += copy<Format, Wide>(own.from(first), next, out + first * stride, stride);
    if (done < own.count) c.errors->bad_id(c.step, w.feature, w.begin + done, id_of<Wide>(own.ids + done * own.step), f.row_count - f.base);
}

template <int Format, bool Wide>
inline void one_feature(const RecfxFeature& f, const Work& w) {
    if (w.out.size[0] == 1 && plain(f)) return copies<Format, Wide>(f, w);
    if (w.next) announce(*w.next, w.context, w.range, w.begin, w.end, w.out.size[0]);
    bags<Format, Wide>(f, w.context, w.range, w.feature, w.begin, w.end, w.out);
}

template <int Format>
inline void of_width(const RecfxFeature& f, const Work& w) {
    if (w.context.slots[f.ids].dtype == RECFX_I64) one_feature<Format, true>(f, w);
    else one_feature<Format, false>(f, w);
}

// The features and batch rows of a part of a lookup.
struct Share {
    int64_t first, last, begin, end;

    Share(const RecfxStep& step, const Range& range) : first(0), last(step.ints[LookupInt::features]), begin(range.begin), end(range.end) {
        if (range.parts == 1) return;
        if (last >= end - begin) split(last, range.part, range.parts, first, last);
        else split(range.end - range.begin, range.part, range.parts, begin, end), begin += range.begin, end += range.begin;
    }
    // How many features to prefetch ahead, assuming that all are like `f`.
    int64_t lead(const RecfxFeature& f) const {
        const int64_t each = (end - begin) * (f.length > 1 ? f.length : 1);
        return (2 * rows_ahead(f) + each - 1) / each;
    }
};

__attribute__((always_inline)) inline void announce_first(const RecfxStep& step, const Context& context, const Range& range, const Share& share) {
    const auto* features = static_cast<const RecfxFeature*>(step.pointers[LookupPointer::features]);
    if (share.begin >= share.end || share.first >= share.last) return;
    const int64_t lead = share.lead(features[share.first]);
    for (int64_t i = share.first; i < share.last && i < share.first + lead; ++i)
        announce(features[i], context, range, share.begin, share.end, step.out.size[0]);
}

// Prefetches the first rows of a lookup, long before it runs.
void announce_step(const RecfxStep& step, const Context& context, const Range& range) { announce_first(step, context, range, Share(step, range)); }

// out: [rows of a batch row, width]. Feature by feature, so that the description of a table stays in registers.
void lookup_step(const RecfxStep& step, const Context& context, const Range& range) {
    const auto* features = static_cast<const RecfxFeature*>(step.pointers[LookupPointer::features]);
    const Share share(step, range);
    const int64_t first = share.first, last = share.last, begin = share.begin, end = share.end;
    if (begin >= end || first >= last) return;
    const int64_t lead = share.lead(features[first]);
    announce_first(step, context, range, share);
    for (int64_t i = first; i < last; ++i) {
        const RecfxFeature& f = features[i];
        const Work work{context, range, step.out, begin, end, i, i + lead < last ? &features[i + lead] : nullptr};
        switch (f.format) {
            case ROWS_F32: of_width<ROWS_F32>(f, work); break;
            case ROWS_BF16: of_width<ROWS_BF16>(f, work); break;
            case ROWS_F16: of_width<ROWS_F16>(f, work); break;
            case ROWS_CODES_8: of_width<ROWS_CODES_8>(f, work); break;
            case ROWS_CODES_4: of_width<ROWS_CODES_4>(f, work); break;
            case ROWS_CODES_2: of_width<ROWS_CODES_2>(f, work); break;
            default: of_width<ROWS_CODES_1>(f, work);
        }
    }
}

}  // namespace
}  // namespace recfx
