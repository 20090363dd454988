// Top-k over quantised items: the arguments of a search, and the functions of one instruction-set level.
//
// Items lie in blocks of 16: word w (32 bits) of the block's items next to each other, words [block][word][item]. An item's words hold its
// codes of `bits` bits, the first in the lowest bits. The rest of the last word and of the last block is zero.
#pragma once
#include <cstddef>
#include <cstdint>

#include "codes.h"

namespace recfx {
constexpr int64_t BLOCK = RECFX_SEARCH_BLOCK;
}

extern "C" {

// The mirror in Python is recfx/kernels/search_structs.py.
struct RecfxSearch {
    int64_t struct_bytes;
    int64_t items, dim, bits, words;  // words: 32-bit words of one item
    int64_t queries, k;
    int64_t hamming;             // 1: queries are words like the items'; 0: queries are int8, one number for each code that fits into a word
    const uint32_t* blocks;      // [ceil(items / 16), words, 16]
    const void* query_rows;      // uint32 [queries, words], or int8 [queries, words * 32 / bits]
    const float* scale;          // [ceil(items / 16) * 16] or null: then items rank by the product
    const float* bias;           // the same: value = scale * product + bias * query_sum; or null: value = scale * (product + lower * query_sum)
    const float* query_sum;      // [queries], read where there is a scale
    const uint64_t* dead;        // one bit per item, or null
    const int64_t* exclude_from; // [queries + 1] or null
    const int64_t* exclude;      // ids, ascending within a query
    const float* gain;           // [queries] or null, then `offset` is null too: score = gain * value + offset
    const float* offset;         // [queries]
    float* scores;               // [queries, k], -inf beyond the last item; null: only the ids, in any order
    int64_t* ids;                // [queries, k], -1 beyond the last item
    float lower;                 // the value of code 0 in steps, read if there is a scale and no bias
    float query_step, query_lower, query_constant;  // see RecfxQueries
    int64_t query_kind;  // a RecfxRoundTo
    const void* values;          // [queries, dim], queries to round first, or null; with them, query_rows, query_sum, gain and offset are not read
};

// Queries to be rounded. The mirror in Python is recfx/kernels/search_structs.py.
struct RecfxQueries {
    int64_t struct_bytes;
    int64_t queries, dim;
    int64_t kind;         // a RecfxRoundTo
    int64_t width;        // words, or numbers, of a row of the result; zero past `dim`
    const void* values;   // [queries, dim], float32 or uint8
    void* rows;
    float step, lower, constant;  // gain = unit * step, offset = constant + unit * lower * sum
    float* gain;          // [queries]
    float* offset;        // [queries]
    float* sums;          // [queries], of the numbers, or of the signs
};

// Candidates scored again, by rows that lie one after the other.
struct RecfxRescore {
    int64_t struct_bytes;
    int64_t dim, queries, candidates, k;
    int64_t dtype;         // RECFX_F32, RECFX_F16 or RECFX_U8
    const void* rows;      // [items, dim]
    const float* scale;    // [items] or null; with RECFX_U8: value = scale * code + bias
    const float* bias;
    const void* query_rows;  // [queries, dim], float32; int8 with RECFX_U8
    const float* query_sum;  // [queries], with RECFX_U8
    const int64_t* shortlist;  // [queries, candidates]; -1: none
    float* scores;         // [queries, k]
    int64_t* ids;
};

#define RECFX_SEARCH_API __attribute__((visibility("default")))
RECFX_SEARCH_API const char* recfx_search_levels();  // comma-separated, best first
// Returns a RecfxSearchResult; below zero it is SEARCH_UNFIT_ROW minus the first row of `values` that cannot be rounded.
RECFX_SEARCH_API int64_t recfx_search(const char* level, const RecfxSearch* search, int64_t threads);
// Returns a RecfxRoundingResult, or the first row that holds NaN, infinities, numbers beyond 1e15, or codes above 1.
RECFX_SEARCH_API int64_t recfx_round_queries(const RecfxQueries* work);
RECFX_SEARCH_API int64_t recfx_rescore(const char* level, const RecfxRescore* search, int64_t threads);
}

namespace recfx {

// The best items that one thread found for one query. Entries are ordered by value, best first, then by id. All ids differ, so no two are equal.
struct Best {
    uint64_t* entries;
    int64_t count, capacity, k;
    int64_t query;
};

// The value that an item must exceed to enter a list. The limits of a group are adjacent in memory, because every block of items reads them.
union Limit {
    int32_t whole;
    float real;
};

struct ScanLevel {
    const char* name;
    int64_t depth;  // codes of one step of a dot product
    int64_t tile;   // queries that are laid out together
    // Compares blocks [first, last) with `count` queries in the layout of `lay_out`. Without a scale, values are dot products or minus the bits that differ.
    void (*scan)(const RecfxSearch&, const uint32_t* units, int64_t count, int64_t first, int64_t last, Best*, Limit*);
    // Room for a multiple of `tile` queries.
    void (*lay_out)(const RecfxSearch&, int64_t first, int64_t count, uint32_t* units);
    void (*rescore)(const RecfxRescore&, int64_t query, Best&);
};

// 32-bit units that one query takes.
inline int64_t units_of(const RecfxSearch& search, int64_t depth) {
    return search.hamming ? search.words : search.words * 32 / (search.bits * depth);
}

// Larger values have smaller keys; -0 counts as 0.
inline uint32_t key_of(int32_t value) { return ~(uint32_t(value) ^ 0x80000000u); }
inline uint32_t key_of(float value) {
    value += 0.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
}
inline int32_t whole_of(uint32_t key) { return int32_t(~key ^ 0x80000000u); }
inline float real_of(uint32_t key) {
    uint32_t bits = ~key;
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

// Keeps the k best of a full list; the last of them is the new limit.
void shorten(Best& best, Limit& limit, bool real);

// Enters the items of a block whose bit is set in `mask`, except deleted and excluded ones.
void enter(const RecfxSearch& search, Best& best, Limit& limit, int64_t first, uint32_t mask, const int32_t* values);
void enter(const RecfxSearch& search, Best& best, Limit& limit, int64_t first, uint32_t mask, const float* values);

// nullptr: there is no such level, or this processor does not run it.
const ScanLevel* find_scan_level(const char* name);

const ScanLevel* scan_avx512_vpopcntdq();
const ScanLevel* scan_avx512();
const ScanLevel* scan_avx2();
const ScanLevel* scan_portable();

}  // namespace recfx
