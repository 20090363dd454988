// Rows written to their places in a table.
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t AHEAD = 16;   // rows that are fetched before their turn: places are random, and a line of memory takes longer than a copy
constexpr int64_t LINE = 64;    // bytes
constexpr int64_t FETCHED = 4;  // lines of a row; the processor follows the rest of a long row itself

void fetch(const uint8_t* row, int64_t bytes) {
    const int64_t end = bytes < FETCHED * LINE ? bytes : FETCHED * LINE;
    for (int64_t at = 0; at < end; at += LINE) __builtin_prefetch(row + at, 1);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int64_t recfx_write_rows(const int64_t* ids, int64_t count, const uint8_t* rows, int64_t bytes,
                                                                           uint8_t* table, int64_t table_rows);

extern "C" {

// Copies row i of rows [count, bytes] to row ids[i] of table [table_rows, bytes], in this order, so that the last row of an id stays.
// Returns -1, or the first i whose id is outside the table; nothing is written then.
int64_t recfx_write_rows(const int64_t* ids, int64_t count, const uint8_t* rows, int64_t bytes, uint8_t* table, int64_t table_rows) {
    for (int64_t i = 0; i < count; ++i)
        if (ids[i] < 0 || ids[i] >= table_rows) return i;
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch(table + ids[i + AHEAD] * bytes, bytes);
        std::memcpy(table + ids[i] * bytes, rows + i * bytes, size_t(bytes));
    }
    return -1;
}
}
