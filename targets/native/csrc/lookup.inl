// Grouped lookup: rows of many tables, pooled and written into their columns. Every id is checked before its row is read.
#pragma once

constexpr int64_t IN_FLIGHT = 48;  // bags whose first rows are asked for ahead of their use

inline int64_t id_at(const Bound& slot, int64_t element) {
    return slot.dtype == RECFX_I32 ? reinterpret_cast<const int32_t*>(slot.base)[element] : reinterpret_cast<const int64_t*>(slot.base)[element];
}

inline int64_t fixed_element(const Context& c, int32_t slot, int64_t offset, int64_t row) {
    const Bound& b = c.slots[slot];
    return (row - b.first_row) * b.row_stride + offset;
}

// Forced inline: GCC takes a function that only prefetches for one without effect, and drops the call.
__attribute__((always_inline)) inline void fetch(const RecfxFeature& f, int64_t id) {
    const int64_t row = id + f.base;
    if (uint64_t(row) >= uint64_t(f.row_count)) return;
    const char* p = static_cast<const char*>(f.rows) + row * f.row_bytes;
    const int64_t bytes = f.row_bytes < 512 ? f.row_bytes : 512;
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

// to (+)= weight * row
template <int Format, bool Add, bool Weighted>
inline void take_row(const RecfxFeature& f, int64_t row, float weight, float* to) {
    const char* p = static_cast<const char*>(f.rows) + row * f.row_bytes;
    float scale = 0, bias = 0;
    if constexpr (Format >= 1 && Format <= 8) {
        uint16_t tail[2];
        __builtin_memcpy(tail, p + (int64_t(f.dim) * Format + 7) / 8, 4);
        scale = half_to_float(tail[0]);
        bias = half_to_float(tail[1]);
    }
    int64_t d = 0;
    for (; d + W <= f.dim; d += W) {
        vf v = row_values<Format>(p, d, scale, bias);
        if constexpr (Weighted) v = v * weight;
        if constexpr (Add) v = load(to + d) + v;
        store(to + d, v);
    }
    for (; d < f.dim; ++d) {
        float v = row_value<Format>(p, d, scale, bias);
        if constexpr (Weighted) v *= weight;
        to[d] = Add ? to[d] + v : v;
    }
}

template <int Format>
inline void take(const RecfxFeature& f, int64_t row, bool weighted, float weight, bool add, float* to) {
    if (add) weighted ? take_row<Format, true, true>(f, row, weight, to) : take_row<Format, true, false>(f, row, weight, to);
    else weighted ? take_row<Format, false, true>(f, row, weight, to) : take_row<Format, false, false>(f, row, weight, to);
}

struct Bag {
    int64_t first, count, step;  // elements of the ids
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

template <int Format>
inline void pool(const RecfxFeature& f, const Context& c, const Range& range, int64_t row, int64_t inner, int64_t feature, float* out) {
    Bag bag;
    if (!find_bag(f, c, range, row, inner, feature, bag)) return;
    const Bound& ids = c.slots[f.ids];
    const float* weights = f.weights >= 0 ? reinterpret_cast<const float*>(c.slots[f.weights].base) : nullptr;
    const bool side_by_side = f.pooling == 2;
    int64_t counted = 0;
    for (int64_t i = 0; i < bag.count; ++i) {
        if (bag.count > 4 && i + 8 < bag.count) fetch(f, id_at(ids, bag.first + (i + 8) * bag.step));
        const int64_t id = id_at(ids, bag.first + i * bag.step), at = id + f.base;
        float* to = side_by_side ? out + i * f.dim : out;
        const bool skipped = f.padding >= 0 && id == f.padding;
        if (!skipped && uint64_t(at) >= uint64_t(f.row_count)) {
            c.errors->raise({1, c.step, feature, row, id, f.row_count - f.base});
            return;
        }
        if (!skipped)
            take<Format>(f, at, weights != nullptr, weights ? weights[bag.weights + i * bag.weights_step] : 1.0f, !side_by_side && counted, to);
        else if (side_by_side)
            __builtin_memset(to, 0, size_t(f.dim) * 4);
        counted += !skipped;
    }
    if (!side_by_side && !counted) __builtin_memset(out, 0, size_t(f.dim) * 4);
    if (f.pooling == 1 && counted > 1)
        for (int64_t d = 0; d < f.dim; ++d) out[d] /= float(counted);
}

inline void one_feature(const RecfxFeature& f, const Context& c, const Range& range, int64_t row, int64_t inner, int64_t feature, float* out) {
    switch (f.format) {
        case 32: return pool<32>(f, c, range, row, inner, feature, out);
        case 16: return pool<16>(f, c, range, row, inner, feature, out);
        case -16: return pool<-16>(f, c, range, row, inner, feature, out);
        case 8: return pool<8>(f, c, range, row, inner, feature, out);
        case 4: return pool<4>(f, c, range, row, inner, feature, out);
        case 2: return pool<2>(f, c, range, row, inner, feature, out);
        default: return pool<1>(f, c, range, row, inner, feature, out);
    }
}

// Walks over all rows of all features some way ahead of the work, asking for what it will read.
struct Scout {
    const RecfxFeature* features;
    const Context& context;
    int64_t last, begin, end, feature, row;

    __attribute__((always_inline)) inline void step() {
        if (feature >= last) return;
        const RecfxFeature& f = features[feature];
        if (f.length >= 0) {
            const Bound& ids = context.slots[f.ids];
            const int64_t first = fixed_element(context, f.ids, f.ids_offset, row), count = f.length < 4 ? f.length : 4;
            for (int64_t i = 0; i < count; ++i) fetch(f, id_at(ids, first + i * f.ids_stride));
        }
        if (++row == end) row = begin, ++feature;
    }
};

// One row of one table for every batch row: no bags, no weights, nothing left out.
template <int Format>
inline void copy_rows(const RecfxFeature& f, const Context& c, int64_t feature, int64_t begin, int64_t end, Scout& scout, float* out, int64_t out_stride) {
    const Bound& ids = c.slots[f.ids];
    const RecfxFeature held = f;  // a copy of its own, which stores to the output cannot change
    const uint64_t limit = uint64_t(held.row_count);
    int64_t element = fixed_element(c, f.ids, f.ids_offset, begin);
    for (int64_t row = begin; row < end; ++row, element += ids.row_stride, out += out_stride) {
        scout.step();
        const int64_t id = id_at(ids, element), at = id + held.base;
        if (uint64_t(at) >= limit) return c.errors->raise({1, c.step, feature, row, id, held.row_count - held.base});
        take_row<Format, false, false>(held, at, 1.0f, out);
    }
}

inline bool plain(const RecfxFeature& f) { return f.length == 1 && f.weights < 0 && f.padding < 0; }

inline void plain_feature(const RecfxFeature& f, const Context& c, int64_t feature, int64_t begin, int64_t end, Scout& scout, float* out, int64_t stride) {
    switch (f.format) {
        case 32: return copy_rows<32>(f, c, feature, begin, end, scout, out, stride);
        case 16: return copy_rows<16>(f, c, feature, begin, end, scout, out, stride);
        case -16: return copy_rows<-16>(f, c, feature, begin, end, scout, out, stride);
        case 8: return copy_rows<8>(f, c, feature, begin, end, scout, out, stride);
        case 4: return copy_rows<4>(f, c, feature, begin, end, scout, out, stride);
        case 2: return copy_rows<2>(f, c, feature, begin, end, scout, out, stride);
        default: return copy_rows<1>(f, c, feature, begin, end, scout, out, stride);
    }
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
    const int64_t inner_rows = step.out.size[0], stride = context.slots[step.out.slot].row_stride;
    Scout scout{features, context, last, begin, end, first, begin};
    for (int64_t i = 0; i < IN_FLIGHT; ++i) scout.step();
    float* base = at<float>(context, step.out, begin);
    for (int64_t i = first; i < last; ++i) {
        const RecfxFeature& f = features[i];
        float* out = base + f.output;
        if (inner_rows == 1 && plain(f)) {
            plain_feature(f, context, i, begin, end, scout, out, stride);
            continue;
        }
        for (int64_t row = begin; row < end; ++row, out += stride) {
            scout.step();
            for (int64_t inner = 0; inner < inner_rows; ++inner)
                one_feature(f, context, range, row, inner, i, out + inner * step.out.stride[0]);
        }
    }
}
