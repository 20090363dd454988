// New rows of tables: checked, packed and written to their places.
#include "row_writes.h"

#include <cstring>

#include "encode.h"

namespace {

constexpr int64_t AHEAD = 16;   // rows that are fetched before their turn: places are random, and a line of memory takes longer than a copy
constexpr int64_t LINE = 64;    // bytes
constexpr int64_t FETCHED = 4;  // lines of a row; the processor follows the rest of a long row itself
constexpr uint32_t INFINITE = 0x7f800000, SIGN = 0x80000000;

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

bool inside(int64_t id, int64_t table_rows) { return uint64_t(id) < uint64_t(table_rows); }

bool all_inside(const int64_t* ids, int64_t count, int64_t table_rows) {
    int64_t outside = 0;
    for (int64_t i = 0; i < count; ++i) outside |= (ids[i] < 0) | (ids[i] >= table_rows);
    return !outside;
}

bool finite(const float* values, int64_t count) {
    uint32_t odd = 0;
    for (int64_t i = 0; i < count; ++i) odd |= (bits_of(values[i]) & ~SIGN) >= INFINITE;
    return !odd;
}

// Rounds to bfloat16, ties to even; false where the result is not finite.
bool round_row(const float* row, int64_t columns, uint8_t* to) {
    uint32_t odd = 0;
    for (int64_t c = 0; c < columns; ++c) {
        const uint32_t bits = bits_of(row[c]), rounded = bits + 0x7fff + (bits >> 16 & 1);
        odd |= (bits & ~SIGN) >= INFINITE;
        odd |= (rounded & ~SIGN) >= INFINITE;
        const uint16_t half = uint16_t(rounded >> 16);
        std::memcpy(to + 2 * c, &half, 2);
    }
    return !odd;
}

// Calls write(i, row of the table) for the row of each id, in this order. False where an id is outside the table, or where `write` returns false.
template <class Write>
bool each_row(const RecfxRowUpdate& update, Write write) {
    const int64_t bytes = update.row_bytes, fetched = bytes < FETCHED * LINE ? bytes : FETCHED * LINE;
    for (int64_t i = 0; i < update.count; ++i) {
        if (i + AHEAD < update.count) {
            const uintptr_t next = uintptr_t(update.table) + uintptr_t(update.ids[i + AHEAD]) * uintptr_t(bytes);
            for (int64_t at = 0; at < fetched; at += LINE) __builtin_prefetch(reinterpret_cast<const void*>(next + uintptr_t(at)), 1);
        }
        const int64_t id = update.ids[i];  // read once: another thread may change the tensor of the caller
        if (!inside(id, update.table_rows) || !write(i, id * bytes)) return false;
    }
    return true;
}

// Copies the rows of the ids from one copy of the table to the other.
bool copy_rows(const RecfxRowUpdate& update, bool to_present) {
    RecfxRowUpdate turned = update;
    const uint8_t* from = to_present ? update.table : update.present;
    turned.table = to_present ? update.present : update.table;
    return each_row(turned, [&](int64_t, int64_t at) {
        std::memcpy(turned.table + at, from + at, size_t(update.row_bytes));
        return true;
    });
}

bool write_rows(const RecfxRowUpdate& update) {
    const auto* rows = static_cast<const uint8_t*>(update.rows);
    const auto* numbers = static_cast<const float*>(update.rows);
    const int64_t columns = update.columns;
    if (update.bits == 0 || update.bits == 32)
        return each_row(update, [&](int64_t i, int64_t at) {
            std::memcpy(update.table + at, rows + i * update.row_bytes, size_t(update.row_bytes));
            return true;
        });
    if (update.bits == 16)
        return each_row(update, [&](int64_t i, int64_t at) { return round_row(numbers + i * columns, columns, update.table + at); });
    const recfx::EncodeRow encode = recfx::encode_row_of(update.bits);
    return encode && each_row(update, [&](int64_t i, int64_t at) { return encode(numbers + i * columns, columns, update.table + at); });
}

// Whether an update may be written, as far as it is known before: packing checks the numbers that it packs.
bool fits(const RecfxRowUpdate& update) {
    if (update.struct_bytes != int64_t(sizeof(RecfxRowUpdate)) || !all_inside(update.ids, update.count, update.table_rows)) return false;
    return update.bits != 32 || finite(static_cast<const float*>(update.rows), update.count * update.columns);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows,
                                                                               const float* values, int64_t columns);
extern "C" __attribute__((visibility("default"))) int64_t recfx_update_rows(const RecfxRowUpdate* updates, int64_t count);
extern "C" __attribute__((visibility("default"))) int64_t recfx_copy_rows(const RecfxRowUpdate* updates, int64_t count,
                                                                             int32_t to_present);

extern "C" {

// Whether all ids are inside a table and all values [count, columns] are finite numbers.
int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows, const float* values, int64_t columns) {
    return all_inside(ids, count, table_rows) && finite(values, count * columns);
}

// Writes row i of each update to row ids[i] of its table, in this order, so that the last row of an id stays. Returns -1, or the position of an
// update with an id outside its table or a number that its table cannot hold; all tables then have the present rows.
int64_t recfx_update_rows(const RecfxRowUpdate* updates, int64_t count) {
    for (int64_t u = 0; u < count; ++u)
        if (!fits(updates[u])) return u;
    for (int64_t u = 0; u < count; ++u) {
        if (write_rows(updates[u])) continue;
        for (int64_t written = 0; written <= u; ++written) copy_rows(updates[written], false);
        return u;
    }
    return -1;
}

// Copies the rows of the ids of each update from `present` to `table`, or the other way. Returns -1, or the position of an update with an id outside
// its table.
int64_t recfx_copy_rows(const RecfxRowUpdate* updates, int64_t count, int32_t to_present) {
    for (int64_t u = 0; u < count; ++u)
        if (updates[u].struct_bytes != int64_t(sizeof(RecfxRowUpdate)) || !copy_rows(updates[u], to_present)) return u;
    return -1;
}
}
