// The scan of one instruction-set level: blocks of items stream past queries that stay in the first-level cache, and only the scores of items
// that enter a list are written. Compiled with the flags of the level; no floating-point operation may be contracted, so that all levels give the
// same bits.
#pragma once
#include "abi.h"
#include "retrieval.h"
#include "scan_units.inl"

namespace recfx {
namespace {

constexpr int TILE = RECFX_TILE;           // queries that share the loaded and unpacked items

constexpr int64_t AHEAD = 16 * 1024;       // distance, in bytes, of the block that is prefetched into the second-level cache

inline void ask_ahead(const uint32_t* block, int64_t words) {
    const char* at = reinterpret_cast<const char*>(block) + AHEAD;
    for (int64_t w = 0; w < words; ++w) __builtin_prefetch(at + w * BLOCK * 4, 0, 2);
}

// Minus the number of bits that differ: -|x xor q|.
template <int WORDS>
struct Hamming {
    // The product of rows of -1 and 1.
    static vi product(const RecfxSearch& search, vi found) { return found + found + int32_t(search.dim); }
    template <int Q>
    static void products(const RecfxSearch& search, const uint32_t* items, const uint32_t* units, vi* out) {
        const int64_t words = WORDS ? WORDS : search.words;
        vi distance[Q] = {};
        for (int64_t w = 0; w < words;) {
            const int64_t stop = words - w < WORDS_BEFORE_SUM ? words : w + WORDS_BEFORE_SUM;
            vu bits[Q] = {};
            for (; w < stop; ++w) {
                const vu item = load<vu>(items + w * BLOCK);
#pragma GCC unroll 16
                for (int q = 0; q < Q; ++q) bits[q] += counts(item ^ splat(units[w * TILE + q]));
            }
#pragma GCC unroll 16
            for (int q = 0; q < Q; ++q) distance[q] += sum(bits[q]);
        }
#pragma GCC unroll 16
        for (int q = 0; q < Q; ++q) out[q] = -distance[q];
    }
};

template <int BITS>
struct Dots {
    static vi product(const RecfxSearch&, vi found) { return found; }
    template <int Q>
    static void products(const RecfxSearch& search, const uint32_t* items, const uint32_t* units, vi* out) {
        constexpr int STEPS = 32 / (BITS * Dot::depth);
        constexpr uint32_t MASK = ((1u << BITS) - 1) * Dot::ones;
        // A single query would wait for the sum of each step; several independent sums hide the latency.
        constexpr int CHAINS = Q > 1 ? 1 : STEPS < 4 ? STEPS : 4;
        vi acc[CHAINS][Q] = {};
        for (int64_t w = 0; w < search.words; ++w) {
            const vu word = load<vu>(items + w * BLOCK);
#pragma GCC unroll 32
            for (int s = 0; s < STEPS; ++s) {
                const vu codes = (word >> (s * BITS)) & MASK;
#pragma GCC unroll 16
                for (int q = 0; q < Q; ++q) acc[s % CHAINS][q] = Dot::step(acc[s % CHAINS][q], codes, units[(w * STEPS + s) * TILE + q]);
            }
        }
#pragma GCC unroll 16
        for (int q = 0; q < Q; ++q) {
            out[q] = acc[0][q];
            for (int c = 1; c < CHAINS; ++c) out[q] += acc[c][q];
        }
    }
};

// Ranks by the product itself.
template <class Product>
struct Whole {
    using Value = int32_t;
    using V = vi;
    static V value(const RecfxSearch&, vi found, int64_t, int64_t) { return found; }
    static Value limit(const Limit& limit) { return limit.whole; }
};

// Ranks by scale * product + bias * (sum of the query).
template <class Product>
struct Affine {
    using Value = float;
    using V = vf;
    static V value(const RecfxSearch& search, vi found, int64_t item, int64_t query) {
        const vf scaled = __builtin_convertvector(Product::product(search, found), vf) * load<vf>(search.scale + item);
        return scaled + load<vf>(search.bias + item) * search.query_sum[query];
    }
    static Value limit(const Limit& limit) { return limit.real; }
};

// Ranks by scale * (product + lower * (sum of the query)): the levels of all rows have the same form and differ in their distance.
template <class Product>
struct Scaled {
    using Value = float;
    using V = vf;
    static V value(const RecfxSearch& search, vi found, int64_t item, int64_t query) {
        return (__builtin_convertvector(Product::product(search, found), vf) + search.lower * search.query_sum[query]) * load<vf>(search.scale + item);
    }
    static Value limit(const Limit& limit) { return limit.real; }
};

template <class Product, class Rank, int Q>
inline void tile(const RecfxSearch& search, const uint32_t* block, const uint32_t* units, int64_t first, uint32_t valid, Best* best, Limit* limits) {
    vi products[PARTS][Q];
    for (int p = 0; p < PARTS; ++p) Product::template products<Q>(search, block + p * L, units, products[p]);
#pragma GCC unroll 16
    for (int q = 0; q < Q; ++q) {
        typename Rank::V values[PARTS];
        uint32_t mask = 0;
        for (int p = 0; p < PARTS; ++p) {
            values[p] = Rank::value(search, products[p][q], first + p * L, best[q].query);
            mask |= above(values[p], Rank::limit(limits[q])) << (p * L);
        }
        mask &= valid;
        if (__builtin_expect(mask != 0, 0)) {
            typename Rank::Value plain[BLOCK];
            __builtin_memcpy(plain, values, sizeof plain);
            enter(search, best[q], limits[q], first, mask, plain);
        }
    }
}

// Full blocks [first, last) for one query, several at a time: the chain of sum, comparison and branch of a single block would stall the processor.
template <class Product, class Rank>
inline int64_t groups(const RecfxSearch& search, const uint32_t* units, int64_t first, int64_t last, Best& best, Limit& limit) {
    constexpr int GROUP = 4;
    int64_t b = first;
    for (; b + GROUP <= last; b += GROUP) {
        typename Rank::V values[GROUP][PARTS];
        uint32_t any = 0;
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g) {
            const uint32_t* block = search.blocks + (b + g) * search.words * BLOCK;
            ask_ahead(block, search.words);
#pragma GCC unroll 4
            for (int p = 0; p < PARTS; ++p) {
                vi product[1];
                Product::template products<1>(search, block + p * L, units, product);
                values[g][p] = Rank::value(search, product[0], (b + g) * BLOCK + p * L, best.query);
                any |= above(values[g][p], Rank::limit(limit));
            }
        }
        if (__builtin_expect(any == 0, 1)) continue;
        for (int g = 0; g < GROUP; ++g) {
            uint32_t mask = 0;
            for (int p = 0; p < PARTS; ++p) mask |= above(values[g][p], Rank::limit(limit)) << (p * L);
            if (!mask) continue;
            typename Rank::Value plain[BLOCK];
            __builtin_memcpy(plain, values[g], sizeof plain);
            enter(search, best, limit, (b + g) * BLOCK, mask, plain);
        }
    }
    return b;
}

template <class Product, class Rank>
void blocks(const RecfxSearch& search, const uint32_t* units, int64_t count, int64_t first, int64_t last, Best* best, Limit* limits) {
    const int64_t each = units_of(search, Dot::depth);
    // In the order of ids, which decides ties.
    const int64_t full = search.items / BLOCK < last ? search.items / BLOCK : last;
    int64_t b = count == 1 ? groups<Product, Rank>(search, units, first, full, best[0], limits[0]) : first;
    for (; b < last; ++b) {
        const uint32_t* block = search.blocks + b * search.words * BLOCK;
        const int64_t item = b * BLOCK, rest = search.items - item;
        const uint32_t valid = rest >= BLOCK ? 0xffffu : (1u << rest) - 1;
        ask_ahead(block, search.words);
        int64_t q = 0;
        for (; q + TILE <= count; q += TILE) tile<Product, Rank, TILE>(search, block, units + q * each, item, valid, best + q, limits + q);
        const uint32_t* last_tile = units + q * each;
        for (int64_t rest = 0; q < count; ++q, ++rest) tile<Product, Rank, 1>(search, block, last_tile + rest, item, valid, best + q, limits + q);
    }
}

template <class Product>
void ranked(const RecfxSearch& search, const uint32_t* units, int64_t count, int64_t first, int64_t last, Best* best, Limit* limits) {
    if (search.bias) blocks<Product, Affine<Product>>(search, units, count, first, last, best, limits);
    else if (search.scale) blocks<Product, Scaled<Product>>(search, units, count, first, last, best, limits);
    else blocks<Product, Whole<Product>>(search, units, count, first, last, best, limits);
}

void scan(const RecfxSearch& search, const uint32_t* units, int64_t count, int64_t first, int64_t last, Best* best, Limit* limits) {
    if (search.hamming) {
        switch (search.words) {
            case 2: return ranked<Hamming<2>>(search, units, count, first, last, best, limits);
            case 4: return ranked<Hamming<4>>(search, units, count, first, last, best, limits);
            case 8: return ranked<Hamming<8>>(search, units, count, first, last, best, limits);
            default: return ranked<Hamming<0>>(search, units, count, first, last, best, limits);
        }
    }
    switch (search.bits) {
        case 1: return ranked<Dots<1>>(search, units, count, first, last, best, limits);
        case 2: return ranked<Dots<2>>(search, units, count, first, last, best, limits);
        case 4: return ranked<Dots<4>>(search, units, count, first, last, best, limits);
        default: return ranked<Dots<8>>(search, units, count, first, last, best, limits);
    }
}

// A step multiplies the codes at the same bit of the `depth` equal parts of a word; a unit holds the numbers for these codes.
inline uint32_t unit_of(const int8_t* numbers, int64_t apart) {
    constexpr int ROOM = 32 / Dot::depth;
    uint32_t unit = 0;
    for (int t = 0; t < Dot::depth; ++t) {
        const uint32_t number = uint32_t(int32_t(numbers[t * apart]));
        unit |= (Dot::depth == 1 ? number : number & ((1ull << ROOM) - 1)) << (Dot::depth == 1 ? 0 : t * ROOM);
    }
    return unit;
}

// The numbers of the queries of a tile are adjacent, so that they need one address.
void lay_out(const RecfxSearch& search, int64_t first, int64_t count, uint32_t* units) {
    const int64_t each = units_of(search, Dot::depth);
    const int64_t per_word = 32 / search.bits, steps = per_word / Dot::depth;
    for (int64_t i = 0; i < count; ++i) {
        uint32_t* to = units + i / TILE * TILE * each + i % TILE;
        if (search.hamming) {
            const uint32_t* row = static_cast<const uint32_t*>(search.query_rows) + (first + i) * search.words;
            for (int64_t w = 0; w < search.words; ++w) to[w * TILE] = row[w];
            continue;
        }
        const int8_t* row = static_cast<const int8_t*>(search.query_rows) + (first + i) * search.words * per_word;
        for (int64_t unit = 0; unit < each; ++unit) to[unit * TILE] = unit_of(row + unit / steps * per_word + unit % steps, steps);
    }
}

// Sixteen partial sums at every level, so that all add up in the same order.
typedef float sixteen __attribute__((vector_size(64)));

template <class T>
inline float dot_real(const T* row, const float* query, int64_t dim) {
    sixteen sums = {};
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) {
        sixteen x;
        if constexpr (sizeof(T) == 4) {
            __builtin_memcpy(&x, row + d, sizeof x);
        } else {
#if RECFX_LANES == 16
            x = (sixteen)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d)));
#else
            for (int i = 0; i < 16; ++i) x[i] = real(row[d + i]);
#endif
        }
        sixteen y;
        __builtin_memcpy(&y, query + d, sizeof y);
        sums += x * y;
    }
    for (int i = 0; d + i < dim; ++i) sums[i] += real(row[d + i]) * query[d + i];
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
}

inline int32_t dot_whole(const uint8_t* row, const int8_t* query, int64_t dim) {
    int32_t total = 0;
    for (int64_t d = 0; d < dim; ++d) total += int32_t(row[d]) * int32_t(query[d]);
    return total;
}

template <class T>
void rescored(const RecfxRescore& search, int64_t query, Best& best) {
    constexpr bool whole = sizeof(T) == 1;
    constexpr int64_t ROWS_AHEAD = 24;
    const int64_t* candidates = search.shortlist + query * search.candidates;
    const T* rows = static_cast<const T*>(search.rows);
    Limit limit;
    limit.real = -__builtin_inff();
    for (int64_t c = 0; c < search.candidates; ++c) {
        if (c + ROWS_AHEAD < search.candidates && candidates[c + ROWS_AHEAD] >= 0) {
            const char* next = reinterpret_cast<const char*>(rows + candidates[c + ROWS_AHEAD] * search.dim);
            for (size_t byte = 0; byte < size_t(search.dim) * sizeof(T); byte += 64) __builtin_prefetch(next + byte);
        }
        const int64_t id = candidates[c];
        if (id < 0) continue;
        float value;
        if constexpr (whole) {
            const int32_t product = dot_whole(rows + id * search.dim, static_cast<const int8_t*>(search.query_rows) + query * search.dim, search.dim);
            value = float(product) * search.scale[id] + search.bias[id] * search.query_sum[query];
        } else {
            value = dot_real(rows + id * search.dim, static_cast<const float*>(search.query_rows) + query * search.dim, search.dim);
        }
        if (best.count == best.capacity) shorten(best, limit, true);
        best.entries[best.count++] = uint64_t(key_of(value)) << 32 | uint64_t(id);
    }
}

void rescore(const RecfxRescore& search, int64_t query, Best& best) {
    switch (search.dtype) {
        case RECFX_F32: return rescored<float>(search, query, best);
        case RECFX_F16: return rescored<uint16_t>(search, query, best);
        default: return rescored<uint8_t>(search, query, best);
    }
}

const ScanLevel level = {RECFX_LEVEL_NAME, Dot::depth, TILE, scan, lay_out, rescore};
}  // namespace
}  // namespace recfx
