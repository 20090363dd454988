// Grouped lookup: rows of many tables, pooled and written into their columns. Every id is checked before its row is read.
#pragma once

constexpr int64_t ROWS_AHEAD = 24;  // rows asked for ahead of their use
constexpr int64_t NEVER = INT64_MIN;  // a padding id no feature has

template <bool Wide>
inline int64_t id_of(const char* at) {
    if constexpr (Wide) return *reinterpret_cast<const int64_t*>(at);
    return *reinterpret_cast<const int32_t*>(at);
}

inline int64_t id_at(const Bound& slot, int64_t element) {
    return slot.dtype == RECFX_I32 ? reinterpret_cast<const int32_t*>(slot.base)[element] : reinterpret_cast<const int64_t*>(slot.base)[element];
}

inline int64_t fixed_element(const Context& c, int32_t slot, int64_t offset, int64_t row) {
    const Bound& b = c.slots[slot];
    return (row - b.first_row) * b.row_stride + offset;
}

// Forced inline: GCC takes a function that only prefetches for one without effect, and drops the call.
__attribute__((always_inline)) inline void fetch(const char* rows, int64_t row_bytes, uint64_t limit, int64_t row) {
    if (uint64_t(row) >= limit) return;
    const char* p = rows + row * row_bytes;
    const int64_t bytes = row_bytes < 512 ? row_bytes : 512;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(p + b);
    if (bytes % 64) __builtin_prefetch(p + bytes - 1);
}

// W values of a row from column d.
template <int Format>
inline vf row_values(const char* row, int64_t d, float scale, float bias) {
    if constexpr (Format == 32) return load(reinterpret_cast<const float*>(row) + d);
    alignas(64) int32_t lanes[W];
    if constexpr (Format == 16 || Format == -16) {
#if RECFX_LANES == 16
        const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * d));
        if constexpr (Format == 16) return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16);
        else return (vf)_mm512_cvtph_ps(h);
#else
        const auto* p = reinterpret_cast<const char*>(row + 2 * d);
        for (int i = 0; i < W; ++i) {
            uint16_t h;
            __builtin_memcpy(&h, p + 2 * i, 2);
            if constexpr (Format == 16) lanes[i] = int32_t(uint32_t(h) << 16);
            else {
                const float f = half_to_float(h);
                __builtin_memcpy(lanes + i, &f, 4);
            }
        }
        return as_float(load_as<vi>(lanes));
#endif
    }
    if constexpr (Format == 8) {
#if RECFX_LANES == 16
        const vi q = (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d)));
        return to_float(q) * scale + bias;
#endif
    }
    if constexpr (Format >= 1 && Format <= 8) {
        for (int i = 0; i < W; ++i) {
            const int64_t bit = (d + i) * Format;
            lanes[i] = (uint8_t(row[bit / 8]) >> (bit % 8)) & ((1 << Format) - 1);
        }
        return to_float(load_as<vi>(lanes)) * scale + bias;
    }
}

#if RECFX_LANES == 16
inline vf unpack_bits(uint64_t word, int bits, float scale, float bias) {
    vi q;
    if (bits == 4) {
        const __m512i both = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), _mm512_set1_epi64(int64_t(word)));
        q = (vi)_mm512_srlv_epi32(both, _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28)) & 15;
    } else {
        const vi steps = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        q = (vi)((vu)splat(int32_t(word)) >> (vu)(steps * bits)) & ((1 << bits) - 1);
    }
    return to_float(q) * scale + bias;
}
template <>
inline vf row_values<4>(const char* row, int64_t d, float scale, float bias) {
    uint64_t word;
    __builtin_memcpy(&word, row + d / 2, 8);
    return unpack_bits(word, 4, scale, bias);
}
template <>
inline vf row_values<2>(const char* row, int64_t d, float scale, float bias) {
    uint32_t word;
    __builtin_memcpy(&word, row + d / 4, 4);
    return unpack_bits(word, 2, scale, bias);
}
template <>
inline vf row_values<1>(const char* row, int64_t d, float scale, float bias) {
    uint16_t word;
    __builtin_memcpy(&word, row + d / 8, 2);
    return unpack_bits(word, 1, scale, bias);
}
#endif

template <int Format>
inline float row_value(const char* row, int64_t d, float scale, float bias) {
    if constexpr (Format == 32) return reinterpret_cast<const float*>(row)[d];
    if constexpr (Format == 16 || Format == -16) {
        uint16_t h;
        __builtin_memcpy(&h, row + 2 * d, 2);
        if constexpr (Format == -16) return half_to_float(h);
        const uint32_t bits = uint32_t(h) << 16;
        float f;
        __builtin_memcpy(&f, &bits, 4);
        return f;
    }
    if constexpr (Format >= 1 && Format <= 8) {
        const int64_t bit = d * Format;
        return float((uint8_t(row[bit / 8]) >> (bit % 8)) & ((1 << Format) - 1)) * scale + bias;
    }
}

// Scale and offset behind the codes of a row.
template <int Format>
inline void scale_of(const char* row, int64_t dim, float& scale, float& bias) {
    if constexpr (Format >= 1 && Format <= 8) {
        uint16_t tail[2];
        __builtin_memcpy(tail, row + (dim * Format + 7) / 8, 4);
        scale = half_to_float(tail[0]);
        bias = half_to_float(tail[1]);
    }
}

// to (+)= weight * row, for rows of any length.
template <int Format>
inline void take_row(const RecfxFeature& f, int64_t row, float weight, bool weighted, bool add, float* to) {
    const char* p = static_cast<const char*>(f.rows) + row * f.row_bytes;
    float scale = 0, bias = 0;
    scale_of<Format>(p, f.dim, scale, bias);
    int64_t d = 0;
    for (; d + W <= f.dim; d += W) {
        vf v = row_values<Format>(p, d, scale, bias);
        if (weighted) v = v * weight;
        if (add) v = load(to + d) + v;
        store(to + d, v);
    }
    for (; d < f.dim; ++d) {
        float v = row_value<Format>(p, d, scale, bias);
        if (weighted) v *= weight;
        to[d] = add ? to[d] + v : v;
    }
}

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

    template <bool Wide>
    __attribute__((always_inline)) inline void ask(const RecfxFeature& f, int64_t i) const {
        const int64_t past = i - count;
        if (past < 0) fetch(static_cast<const char*>(f.rows), f.row_bytes, uint64_t(f.row_count), id_of<Wide>(ids + i * step) + f.base);
        else if (past < next_count) fetch(static_cast<const char*>(f.rows), f.row_bytes, uint64_t(f.row_count), id_of<Wide>(next + past * step) + f.base);
    }
};

// The sum of a bag's rows of `Vectors` whole vectors, kept in registers; the number of rows added, or -1 with the id that is out of range.
template <int Format, bool Wide, int Vectors>
inline int64_t sum_bag(const RecfxFeature& f, const BagIds& bag, int64_t padding, int64_t& bad, float* out) {
    vf sum[Vectors] = {};
    int64_t added = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        bag.ask<Wide>(f, i + ROWS_AHEAD);
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
        bag.ask<Wide>(f, i + ROWS_AHEAD);
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

// One id a batch row, no weights, nothing left out.
inline bool plain(const RecfxFeature& f) { return f.length == 1 && f.weights < 0 && f.padding < 0; }

// Asks for the first rows of a feature, before another one's are worked on.
inline void announce(const RecfxFeature& f, const Context& c, const Range& range, int64_t begin, int64_t end) {
    const Bound& ids = c.slots[f.ids];
    const char* rows = static_cast<const char*>(f.rows);
    if (f.length < 0) {
        const Bound& offsets = c.slots[f.offsets];
        const int64_t at = f.segment * range.batch + begin, first = at < offsets.count ? id_at(offsets, at) : -1;
        for (int64_t i = 0; first >= 0 && i < ROWS_AHEAD && first + i < ids.count; ++i)
            fetch(rows, f.row_bytes, uint64_t(f.row_count), id_at(ids, first + i) + f.base);
        return;
    }
    int64_t asked = 0;
    for (int64_t row = begin; row < end && asked < ROWS_AHEAD; ++row)
        for (int64_t i = 0; i < f.length && asked < ROWS_AHEAD; ++i, ++asked)
            fetch(rows, f.row_bytes, uint64_t(f.row_count), id_at(ids, fixed_element(c, f.ids, f.ids_offset, row) + i * f.ids_stride) + f.base);
}

// Ids that lie `step` bytes apart, and the feature they are of: of rows to copy, or of rows to ask for meanwhile.
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

// One row of the table for each id; the first whose id is out of range, or their number. Vectors is 0 for rows of any length.
template <int Format, bool Wide, int Vectors>
inline int64_t copy_rows(const Column& own, const Column& asked, float* out, int64_t out_stride) {
    const RecfxFeature f = *own.feature;  // copies of our own, which stores to the output cannot change
    const char *rows = static_cast<const char*>(f.rows), *asked_rows = static_cast<const char*>(asked.feature->rows);
    const int64_t asked_bytes = asked.feature->row_bytes, asked_base = asked.feature->base, step = own.step, asked_step = asked.step;
    const uint64_t limit = uint64_t(f.row_count), asked_limit = uint64_t(asked.feature->row_count);
    const char *ids = own.ids, *coming = asked.ids;
    const int64_t count = own.count, asks = asked.count;
    for (int64_t row = 0; row < count; ++row, ids += step, coming += asked_step, out += out_stride) {
        if (row < asks) fetch(asked_rows, asked_bytes, asked_limit, id_of<Wide>(coming) + asked_base);
        const int64_t at = id_of<Wide>(ids) + f.base;
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

// What a lookup step works on: batch rows [begin, end), and the feature whose first rows shall be asked for meanwhile, if any.
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

// All rows of a plain feature: the first while its own later ones are asked for, the last ROWS_AHEAD while the next feature's first are.
template <int Format, bool Wide>
inline void copies(const RecfxFeature& f, const Work& w) {
    const Context& c = w.context;
    float* out = at<float>(c, w.out, w.begin) + f.output;
    const int64_t stride = c.slots[w.out.slot].row_stride;
    const Column own(f, c, w.begin, w.end - w.begin);
    const int64_t first = own.count > ROWS_AHEAD ? own.count - ROWS_AHEAD : 0;
    Column next = own.from(own.count);
    if (w.next) {
        if (plain(*w.next) && c.slots[w.next->ids].dtype == c.slots[f.ids].dtype) next = Column(*w.next, c, w.begin, own.count - first);
        else announce(*w.next, c, w.range, w.begin, w.end);
    }
    int64_t done = first ? copy<Format, Wide>(own.upto(first), own.from(ROWS_AHEAD), out, stride) : 0;
    if (done == first) done += copy<Format, Wide>(own.from(first), next, out + first * stride, stride);
    if (done < own.count) c.errors->raise({1, c.step, w.feature, w.begin + done, id_of<Wide>(own.ids + done * own.step), f.row_count - f.base});
}

template <int Format, bool Wide>
inline void one_feature(const RecfxFeature& f, const Work& w) {
    if (w.out.size[0] == 1 && plain(f)) return copies<Format, Wide>(f, w);
    if (w.next) announce(*w.next, w.context, w.range, w.begin, w.end);
    bags<Format, Wide>(f, w.context, w.range, w.feature, w.begin, w.end, w.out);
}

template <int Format>
inline void of_width(const RecfxFeature& f, const Work& w) {
    if (w.context.slots[f.ids].dtype == RECFX_I64) one_feature<Format, true>(f, w);
    else one_feature<Format, false>(f, w);
}

// ints: number of features. out: [rows of a batch row, width]. Feature by feature, so that what describes a table stays in registers.
void lookup_step(const RecfxStep& step, const Context& context, const Range& range) {
    const auto* features = static_cast<const RecfxFeature*>(step.pointers[0]);
    int64_t first = 0, last = step.ints[0], begin = range.begin, end = range.end;
    if (range.parts > 1) {
        if (last >= end - begin) split(step.ints[0], range.part, range.parts, first, last);
        else split(range.end - range.begin, range.part, range.parts, begin, end), begin += range.begin, end += range.begin;
    }
    if (begin >= end || first >= last) return;
    const int64_t lead = (2 * ROWS_AHEAD + end - begin - 1) / (end - begin);  // features
    for (int64_t i = first; i < last && i < first + lead; ++i) announce(features[i], context, range, begin, end);
    for (int64_t i = first; i < last; ++i) {
        const RecfxFeature& f = features[i];
        const Work work{context, range, step.out, begin, end, i, i + lead < last ? &features[i + lead] : nullptr};
        switch (f.format) {
            case 32: of_width<32>(f, work); break;
            case 16: of_width<16>(f, work); break;
            case -16: of_width<-16>(f, work); break;
            case 8: of_width<8>(f, work); break;
            case 4: of_width<4>(f, work); break;
            case 2: of_width<2>(f, work); break;
            default: of_width<1>(f, work);
        }
    }
}
