// Dot products of queries, rounded as they come, with packed rows of codes: whole numbers inside, one affine map at the end.
#pragma once

constexpr int64_t CODE_CHUNK = 256;          // scores whose whole-number sums are kept before the affine map
constexpr int64_t CODE_BLOCK_BYTES = 24576;  // of a table that all rows read: a block stays in the first-level cache for every row

// A query as whole numbers: at one bit a code as planes of words, otherwise a byte for each column.
struct CodeQuery {
    float scale, total;  // q ~ scale * z; the sum of z
    int64_t positive;    // how many z are positive, for signs
};

struct CodeTable {
    const char* rows;
    int64_t count, row_bytes, width, bits, query_bits, dim;
    int64_t planes() const { return query_bits == 1 ? 1 : query_bits; }
    // A query's bytes: its head, then its planes or its columns.
    int64_t query_bytes() const { return 64 + (bits == 1 ? planes() * width : 8 / bits * width + 63) / 64 * 64 + 64; }
};

inline void round_query(const float* q, const CodeTable& t, int8_t* z, CodeQuery& query) {
    double magnitudes = 0;
    float span = 0;
    bool finite = true;
    for (int64_t i = 0; i < t.dim; ++i) {
        const float x = __builtin_fabsf(q[i]);
        finite &= x <= __FLT_MAX__;
        span = x > span ? x : span;
        magnitudes += double(x);
    }
    int64_t total = 0, positive = 0;
    if (!finite) {
        for (int64_t i = 0; i < t.dim; ++i) z[i] = 0;
        query = {__builtin_nanf(""), 0, 0};
        return;
    }
    if (t.query_bits == 1) {
        for (int64_t i = 0; i < t.dim; ++i) {
            z[i] = q[i] > 0 ? 1 : -1;
            positive += z[i] > 0;
        }
        query = {float(magnitudes / double(t.dim)), float(2 * positive - t.dim), positive};
        return;
    }
    const float most = float((1 << (t.query_bits - 1)) - 1);
    float inverse = most / span;
    if (!(inverse <= __FLT_MAX__)) inverse = 0;
    for (int64_t i = 0; i < t.dim; ++i) {
        z[i] = int8_t(__builtin_nearbyintf(q[i] * inverse));
        total += z[i];
    }
    query = {span / most, float(total), 0};
}

// Bit p of every z, as a plane of the bits of the codes; a sign's only plane holds the positive ones.
inline void planes_of(const int8_t* z, const CodeTable& t, char* planes) {
    __builtin_memset(planes, 0, size_t(t.planes() * t.width));
    for (int64_t p = 0; p < t.planes(); ++p) {
        auto* plane = reinterpret_cast<uint8_t*>(planes + p * t.width);
        for (int64_t shift = 0; shift * t.width < t.dim; ++shift) {
            const int64_t first = shift * t.width, n = t.dim - first < t.width ? t.dim - first : t.width;
            for (int64_t k = 0; k < n; ++k) {
                const int bit = t.query_bits == 1 ? z[first + k] > 0 : (uint8_t(z[first + k]) >> p) & 1;
                plane[k] = uint8_t(plane[k] | bit << shift);
            }
        }
    }
}

inline CodeQuery make_query(const float* q, const CodeTable& t, char* payload, int8_t* z) {
    CodeQuery query;
    if (t.bits == 1) {
        round_query(q, t, z, query);
        planes_of(z, t, payload);
    } else {
        auto* columns = reinterpret_cast<int8_t*>(payload);
        round_query(q, t, columns, query);
        __builtin_memset(columns + t.dim, 0, size_t(8 / t.bits * t.width - t.dim));
    }
    return query;
}

inline uint64_t word_at(const char* p, int64_t i) {
    uint64_t word;
    __builtin_memcpy(&word, p + 8 * i, 8);
    return word;
}

// Where the rows of a chunk lie: by ids, or one after another.
template <bool PICKED>
inline const char* code_row(const CodeTable& t, const int64_t* ids, int64_t first, int64_t i) {
    return t.rows + (PICKED ? ids[i] : first + i) * t.row_bytes;
}

// One bit a code. WORDS: words of a row, 0 for any number; the loop over few words unrolls and the one over rows becomes vectors.
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
            sum += p + 1 == t.query_bits ? -(common << p) : common << p;  // the last plane is the sign's
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
// Not every processor with AVX-512 counts bits in vectors: this one function is compiled for those that do, and chosen at run time.
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

// Two bits a code and more: a row's bytes, shifted and masked, times the query's bytes.
template <int BITS>
inline int32_t dot_bytes(const char* row, const int8_t* z, int64_t width) {
    constexpr int parts = 8 / BITS, mask = (1 << BITS) - 1;
#if RECFX_HAS_VNNI
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
    return _mm512_reduce_add_epi32(sum);
#else
    int32_t sum = 0;
    for (int s = 0; s < parts; ++s)
        for (int64_t k = 0; k < width; ++k) sum += ((uint8_t(row[k]) >> s * BITS) & mask) * int32_t(z[s * width + k]);
    return sum;
#endif
}

template <bool PICKED>
inline void multiply(const CodeTable& t, const int8_t* z, const int64_t* ids, int64_t first, int64_t n, int32_t* dots) {
    for (int64_t i = 0; i < n; ++i) {
        const char* row = code_row<PICKED>(t, ids, first, i);
        dots[i] = t.bits == 8 ? dot_bytes<8>(row, z, t.width) : t.bits == 4 ? dot_bytes<4>(row, z, t.width) : dot_bytes<2>(row, z, t.width);
    }
}

// At most CODE_CHUNK scores of one query.
template <bool PICKED>
inline void score_chunk(const CodeTable& t, const CodeQuery& query, const char* payload, const int64_t* ids, int64_t first, int64_t n, float* out,
                        int64_t out_stride) {
    int32_t dots[CODE_CHUNK];
    if (t.bits == 1) count<PICKED>(t, query, payload, ids, first, n, dots);
    else multiply<PICKED>(t, reinterpret_cast<const int8_t*>(payload), ids, first, n, dots);
    for (int64_t i = 0; i < n; ++i) {
        float constants[2];
        __builtin_memcpy(constants, code_row<PICKED>(t, ids, first, i) + t.width, 8);
        out[i * out_stride] = query.scale * (constants[0] * query.total + constants[1] * float(dots[i]));
    }
}

// Scores [first, last) of a row, by its ids. False where an id is outside the table.
inline bool score_picked(const RecfxStep& step, const Context& context, const CodeTable& t, const CodeQuery& query, const char* payload, int64_t row,
                         int64_t first, int64_t last) {
    const RecfxView& index = step.views[1];
    const Bound& slot = context.slots[index.slot];
    const int64_t start = (row - slot.first_row) * slot.row_stride + index.offset;
    float* out = at<float>(context, step.out, row);
    int64_t ids[CODE_CHUNK];
    for (int64_t at = first; at < last; at += CODE_CHUNK) {
        const int64_t n = last - at < CODE_CHUNK ? last - at : CODE_CHUNK;
        for (int64_t i = 0; i < n; ++i) {
            ids[i] = id_at(slot, start + (at + i) * index.stride[0]);
            if (uint64_t(ids[i]) >= uint64_t(t.count)) {
                context.errors->raise({1, context.step, 0, row, ids[i], t.count});
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

// ints: rows, bytes of a row, bytes of its codes, bits, bits of queries. pointers: the table. views: 0 query [d], 1 ids [C] if any. out: [C].
void code_dot_step(const RecfxStep& step, const Context& context, const Range& range) {
    const CodeTable t{static_cast<const char*>(step.pointers[0]), step.ints[0], step.ints[1], step.ints[2], step.ints[3], step.ints[4],
                      step.views[0].size[0]};
    const int64_t columns = step.out.size[0], rows = range.end - range.begin, bytes = t.query_bytes();
    const bool picked = step.views[1].slot >= 0;
    // A part is a share of the columns where all rows read the whole table, otherwise a share of the rows; of a single row, of its columns.
    int64_t begin = 0, end = rows, first = 0, last = columns;
    if (picked && rows >= range.parts) split(rows, range.part, range.parts, begin, end);
    else split(columns, range.part, range.parts, first, last);
    const int64_t together = picked ? 1 : end - begin;
    char* memory = static_cast<char*>(context.scratch->at_least(size_t(together * bytes + t.dim + 64)));
    if (!memory) return context.errors->raise({3, context.step, 0, 0, 0, 0});
    auto* z = reinterpret_cast<int8_t*>(memory + together * bytes);
    const auto query_of = [&](int64_t row, char* place) {
        const CodeQuery made = make_query(at<const float>(context, step.views[0], row), t, place + 64, z);
        __builtin_memcpy(place, &made, sizeof made);
        return made;
    };
    if (picked) {
        const bool shared = context.slots[step.views[0].slot].row_stride == 0;
        CodeQuery query{};
        for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
            if (!shared || row == range.begin + begin) query = query_of(row, memory);
            if (!score_picked(step, context, t, query, memory + 64, row, first, last)) return;
        }
        return;
    }
    for (int64_t i = begin; i < end; ++i) query_of(range.begin + i, memory + (i - begin) * bytes);
    const int64_t block = CODE_BLOCK_BYTES / t.row_bytes > CODE_CHUNK ? CODE_BLOCK_BYTES / t.row_bytes / CODE_CHUNK * CODE_CHUNK : CODE_CHUNK;
    for (int64_t at_column = first; at_column < last; at_column += block)
        for (int64_t i = begin; i < end; ++i) {
            const char* place = memory + (i - begin) * bytes;
            CodeQuery query;
            __builtin_memcpy(&query, place, sizeof query);
            const int64_t until = last - at_column < block ? last : at_column + block;
            score_range(t, query, place + 64, at_column, until, at<float>(context, step.out, range.begin + i), step.out.stride[0]);
        }
}
