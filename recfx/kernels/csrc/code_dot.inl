// Dot products of queries with packed rows of codes. Queries are rounded; products are sums of integers and one affine map at the end.
#pragma once
#include "code_panel.inl"
#include "code_query.inl"
#include "lookup_ids.inl"

namespace recfx {
namespace {

constexpr int64_t CODE_BLOCK_BYTES = 24576;  // of a table that all queries read: a block stays in the first-level cache for all of them

// A rounded query in the layout for products with rows of codes.
inline void pack_query(const CodeTable& t, const int8_t* z, char* payload) {
    if (t.bits == 1) planes_of(z, t, payload);
    else __builtin_memcpy(payload, z, size_t(8 / t.bits * t.width));
}

// The address of a row of a chunk: by id, or one after another.
template <bool PICKED>
inline const char* code_row(const CodeTable& t, const int64_t* ids, int64_t first, int64_t i) {
    return t.rows + (PICKED ? ids[i] : first + i) * t.row_bytes;
}

// One bit a code. WORDS: words of a row, 0 for any number. With few words, the loop over words is unrolled and the one over rows vectorised.
template <bool PICKED, int64_t WORDS>
inline __attribute__((always_inline)) void count_bits(const CodeTable& t, const CodeQuery& query, const char* planes, const int64_t* ids,
                                                       int64_t first, int64_t n, int32_t* dots) {
    const int64_t words = WORDS ? WORDS : t.width / 8;
    if (t.query_bits == 1) {
        for (int64_t i = 0; i < n; ++i) {
            const char* row = code_row<PICKED>(t, ids, first, i);
            int64_t apart = 0;
            for (int64_t w = 0; w < words; ++w) apart += __builtin_popcountll(word_at(row, w) ^ word_at(planes, w));
            dots[i] = int32_t(query.positive - apart);
        }
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        const char* row = code_row<PICKED>(t, ids, first, i);
        int64_t sum = 0;
        for (int64_t p = 0; p < t.query_bits; ++p) {
            int64_t common = 0;
            for (int64_t w = 0; w < words; ++w) common += __builtin_popcountll(word_at(row, w) & word_at(planes + p * t.width, w));
            sum += p + 1 == t.query_bits ? -(common << p) : common << p;  // the last plane holds the signs
        }
        dots[i] = int32_t(sum);
    }
}

template <bool PICKED>
inline __attribute__((always_inline)) void count_any(const CodeTable& t, const CodeQuery& query, const char* planes, const int64_t* ids,
                                                      int64_t first, int64_t n, int32_t* dots) {
    switch (t.width / 8) {
        case 1: return count_bits<PICKED, 1>(t, query, planes, ids, first, n, dots);
        case 2: return count_bits<PICKED, 2>(t, query, planes, ids, first, n, dots);
        case 4: return count_bits<PICKED, 4>(t, query, planes, ids, first, n, dots);
        default: return count_bits<PICKED, 0>(t, query, planes, ids, first, n, dots);
    }
}

template <bool PICKED>
void count_plain(const CodeTable& t, const CodeQuery& query, const char* planes, const int64_t* ids, int64_t first, int64_t n, int32_t* dots) {
    count_any<PICKED>(t, query, planes, ids, first, n, dots);
}

#if RECFX_LANES == 16
// Only some processors with AVX-512 count bits in vectors: this function is compiled for them, and chosen at run time.
template <bool PICKED>
__attribute__((target("avx512vpopcntdq"))) void count_wide(const CodeTable& t, const CodeQuery& query, const char* planes, const int64_t* ids,
                                                           int64_t first, int64_t n, int32_t* dots) {
    count_any<PICKED>(t, query, planes, ids, first, n, dots);
}
#endif

template <bool PICKED>
inline void count(const CodeTable& t, const CodeQuery& query, const char* planes, const int64_t* ids, int64_t first, int64_t n, int32_t* dots) {
#if RECFX_LANES == 16
    static const bool wide = __builtin_cpu_supports("avx512vpopcntdq");
    if (wide) return count_wide<PICKED>(t, query, planes, ids, first, n, dots);
#endif
    count_plain<PICKED>(t, query, planes, ids, first, n, dots);
}

// Two or more bits a code: a row's bytes, shifted and masked, times the query's bytes.
#if RECFX_HAS_VNNI
template <int BITS>
inline __m128i dot_lanes(const char* row, const int8_t* z, int64_t width) {
    constexpr int parts = 8 / BITS, mask = (1 << BITS) - 1;
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < width; k += 64) {
        const __mmask64 held = width - k >= 64 ? ~__mmask64(0) : (__mmask64(1) << (width - k)) - 1;
        const __m512i bytes = _mm512_maskz_loadu_epi8(held, row + k);
#pragma GCC unroll 4
        for (int s = 0; s < parts; ++s) {
            const __m512i codes = BITS == 8 ? bytes : _mm512_and_si512(_mm512_srli_epi16(bytes, unsigned(s * BITS)), _mm512_set1_epi8(mask));
            sum = _mm512_dpbusd_epi32(sum, codes, _mm512_maskz_loadu_epi8(held, z + s * width + k));
        }
    }
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
#endif

template <int BITS>
inline int32_t dot_bytes(const char* row, const int8_t* z, int64_t width) {
    constexpr int parts = 8 / BITS, mask = (1 << BITS) - 1;
    int32_t sum = 0;
    for (int s = 0; s < parts; ++s)
        for (int64_t k = 0; k < width; ++k) sum += ((uint8_t(row[k]) >> s * BITS) & mask) * int32_t(z[s * width + k]);
    return sum;
}

template <bool PICKED, int BITS>
inline void multiply_codes(const CodeTable& t, const int8_t* z, const int64_t* ids, int64_t first, int64_t n, int32_t* dots) {
    int64_t i = 0;
#if RECFX_HAS_VNNI
    for (; i + 4 <= n; i += 4) {  // four sums are added up across their lanes together
        __m128i sums[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) sums[r] = dot_lanes<BITS>(code_row<PICKED>(t, ids, first, i + r), z, t.width);
        const __m128i all = _mm_hadd_epi32(_mm_hadd_epi32(sums[0], sums[1]), _mm_hadd_epi32(sums[2], sums[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(dots + i), all);
    }
#endif
    for (; i < n; ++i) dots[i] = dot_bytes<BITS>(code_row<PICKED>(t, ids, first, i), z, t.width);
}

template <bool PICKED>
inline void multiply(const CodeTable& t, const int8_t* z, const int64_t* ids, int64_t first, int64_t n, int32_t* dots) {
    if (t.bits == 8) return multiply_codes<PICKED, 8>(t, z, ids, first, n, dots);
    if (t.bits == 4) return multiply_codes<PICKED, 4>(t, z, ids, first, n, dots);
    multiply_codes<PICKED, 2>(t, z, ids, first, n, dots);
}

// At most CODE_CHUNK scores of one query.
template <bool PICKED>
inline void score_chunk(const CodeTable& t, const CodeQuery& query, const char* payload, const int64_t* ids, int64_t first, int64_t n, float* out,
                        int64_t out_stride) {
    int32_t dots[CODE_CHUNK];
    if (t.bits == 1) count<PICKED>(t, query, payload, ids, first, n, dots);
    else multiply<PICKED>(t, reinterpret_cast<const int8_t*>(payload), ids, first, n, dots);
    float lower[CODE_CHUNK], step[CODE_CHUNK], scores[CODE_CHUNK];
    for (int64_t i = 0; i < n; ++i) {
        const char* constants = code_row<PICKED>(t, ids, first, i) + t.width;
        __builtin_memcpy(lower + i, constants, 4);
        __builtin_memcpy(step + i, constants + 4, 4);
    }
    to_scores(query, lower, step, dots, n, scores);
    write_scores(scores, n, out, out_stride);
}

// Scores [first, last) of a row, by its ids. False where an id is outside the table.
inline bool score_picked(const RecfxStep& step, const Context& context, const CodeTable& t, const CodeQuery& query, const char* payload, int64_t row,
                         int64_t first, int64_t last) {
    const RecfxView& index = step.views[CodeDotView::ids];
    const Bound& slot = context.slots[index.slot];
    const int64_t start = (row - slot.first_row) * slot.row_stride + index.offset;
    float* out = at<float>(context, step.out, row);
    int64_t ids[CODE_CHUNK];
    for (int64_t at = first; at < last; at += CODE_CHUNK) {
        const int64_t n = last - at < CODE_CHUNK ? last - at : CODE_CHUNK;
        for (int64_t i = 0; i < n; ++i) {
            ids[i] = id_at(slot, start + (at + i) * index.stride[0]);
            if (uint64_t(ids[i]) >= uint64_t(t.count)) {
                context.errors->bad_id(context.step, 0, row, ids[i], t.count);
                return false;
            }
            __builtin_prefetch(t.rows + ids[i] * t.row_bytes);
        }
        score_chunk<true>(t, query, payload, ids, 0, n, out + at * step.out.stride[0], step.out.stride[0]);
    }
    return true;
}

inline void score_range(const CodeTable& t, const CodeQuery& query, const char* payload, int64_t first, int64_t last, float* out, int64_t out_stride) {
    for (int64_t at = first; at < last; at += CODE_CHUNK) {
        const int64_t n = last - at < CODE_CHUNK ? last - at : CODE_CHUNK;
        score_chunk<false>(t, query, payload, nullptr, at, n, out + at * out_stride, out_stride);
    }
}

// Rounded queries, one after another in memory.
struct CodeQueries {
    char* memory;
    int64_t bytes;
    CodeQuery head(int64_t i) const {
        CodeQuery query;
        __builtin_memcpy(&query, memory + i * bytes, sizeof query);
        return query;
    }
    char* payload(int64_t i) const { return memory + i * bytes + 64; }
};

inline void score_all(const RecfxStep& step, const Context& context, const CodeTable& t, const CodeQueries& queries, int64_t row, int64_t rows,
                      int64_t first, int64_t last) {
    const int64_t block = CODE_BLOCK_BYTES / t.row_bytes > CODE_CHUNK ? CODE_BLOCK_BYTES / t.row_bytes / CODE_CHUNK * CODE_CHUNK : CODE_CHUNK;
    for (int64_t begin = first; begin < last; begin += block)
        for (int64_t i = 0; i < rows; ++i)
            score_range(t, queries.head(i), queries.payload(i), begin, last - begin < block ? last : begin + block,
                        at<float>(context, step.out, row + i), step.out.stride[0]);
}

// For many queries: a block of the table is unpacked once.
inline void score_panels(const RecfxStep& step, const Context& context, const CodeTable& t, const CodeQueries& queries, int64_t row, int64_t rows,
                         int64_t first, int64_t last, char* scratch) {
    CodePanel panel{scratch};
    for (int64_t begin = first; begin < last; begin += CODE_PANEL) {
        const int64_t n = last - begin < CODE_PANEL ? last - begin : CODE_PANEL;
        panel.unpack(t, begin, n);
        for (int64_t i = 0; i < rows; ++i) {
            int32_t dots[CODE_PANEL];
            float scores[CODE_PANEL];
            const CodeQuery query = queries.head(i);
            panel.dots(t, query, queries.payload(i), dots);
            to_scores(query, panel.lower, panel.step, dots, n, scores);
            write_scores(scores, n, at<float>(context, step.out, row + i) + begin * step.out.stride[0], step.out.stride[0]);
        }
    }
}

// query [d], ids [C] if any; out [C].
void code_dot_step(const RecfxStep& step, const Context& context, const Range& range) {
    const RecfxView& queries_view = step.views[CodeDotView::query];
    const CodeTable t{static_cast<const char*>(step.pointers[CodeDotPointer::table]),
                      step.ints[CodeDotInt::rows],
                      step.ints[CodeDotInt::row_bytes],
                      step.ints[CodeDotInt::code_bytes],
                      step.ints[CodeDotInt::bits],
                      step.ints[CodeDotInt::query_bits],
                      queries_view.size[0]};
    const int64_t columns = step.out.size[0], rows = range.end - range.begin;
    const bool picked = step.views[CodeDotView::ids].slot >= 0;
    // A part is a share of the columns if all rows read the whole table, or if there are fewer rows than parts; otherwise a share of the rows.
    int64_t begin = 0, end = rows, first = 0, last = columns;
    if (picked && rows >= range.parts) split(rows, range.part, range.parts, begin, end);
    else split(columns, range.part, range.parts, first, last);
    const int64_t row = range.begin + begin, together = picked ? 1 : end - begin;
    const bool panels = together >= PANEL_ROWS;
    const int64_t bytes = 64 + ((panels ? CodePanel::query_bytes(t) : t.query_bytes()) + 63) / 64 * 64;
    const int64_t columns_bytes = (8 / t.bits * t.width + 63) / 64 * 64;
    const int64_t panel_bytes = panels ? CodePanel::bytes(t) : 0;
    const int64_t scratch_bytes = together * bytes + columns_bytes + panel_bytes + 64;
    char* memory = static_cast<char*>(context.scratch->at_least(size_t(scratch_bytes)));
    if (!memory) return context.errors->no_memory(context.step, scratch_bytes);
    const CodeQueries queries{memory, bytes};
    auto* z = reinterpret_cast<int8_t*>(memory + together * bytes);
    const auto round = [&](int64_t at_row, int64_t i) {
        const CodeQuery query = round_query(at<const float>(context, queries_view, at_row), t, z);
        __builtin_memcpy(memory + i * bytes, &query, sizeof query);
        if (panels) CodePanel::pack_query(t, z, queries.payload(i));
        else pack_query(t, z, queries.payload(i));
    };
    if (!picked) {
        for (int64_t i = 0; i < together; ++i) round(row + i, i);
        if (panels) return score_panels(step, context, t, queries, row, together, first, last, memory + together * bytes + columns_bytes);
        return score_all(step, context, t, queries, row, together, first, last);
    }
    const bool shared = context.slots[queries_view.slot].row_stride == 0;
    for (int64_t r = row; r < range.begin + end; ++r) {
        if (!shared || r == row) round(r, 0);
        if (!score_picked(step, context, t, queries.head(0), queries.payload(0), r, first, last)) return;
    }
}

}  // namespace
}  // namespace recfx
