// New rows of a table: checked, and written to their places.
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

bool inside(const int64_t* ids, int64_t count, int64_t table_rows) {
    int64_t outside = 0;
    for (int64_t i = 0; i < count; ++i) outside |= (ids[i] < 0) | (ids[i] >= table_rows);
    return !outside;
}

bool finite(const float* values, int64_t count) {
    uint32_t odd = 0;
    for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, 4);
        odd |= (bits & 0x7fffffffu) >= 0x7f800000u;
    }
    return !odd;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows,
                                                                               const float* values, int64_t columns);
extern "C" __attribute__((visibility("default"))) int64_t recfx_write_rows(const int64_t* ids, int64_t count, const uint8_t* rows, int64_t bytes,
                                                                           uint8_t* table, int64_t table_rows);

extern "C" {

// Whether all ids are inside a table and all values [count, columns] are finite numbers.
int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows, const float* values, int64_t columns) {
    return inside(ids, count, table_rows) && finite(values, count * columns);
}

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
