// New rows of tables: checked, packed and written to their places.
#include "row_writes.h"

#include <algorithm>
#include <cstring>

#include "encode.h"
#include "row_records.h"

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
bool each_row(const RecfxRowUpdate& update, const int64_t* ids, Write write) {
    const int64_t bytes = update.row_bytes, fetched = bytes < FETCHED * LINE ? bytes : FETCHED * LINE;
    for (int64_t i = 0; i < update.count; ++i) {
        if (i + AHEAD < update.count) {
            const uintptr_t next = uintptr_t(update.table) + uintptr_t(ids[i + AHEAD]) * uintptr_t(bytes);
            for (int64_t at = 0; at < fetched; at += LINE) __builtin_prefetch(reinterpret_cast<const void*>(next + uintptr_t(at)), 1);
        }
        const int64_t id = ids[i];
        if (!inside(id, update.table_rows) || !write(i, id * bytes)) return false;
    }
    return true;
}

// Copies the rows of the kept ids from one copy of the table to the other.
void copy_rows(const RecfxRowUpdate& update, bool to_present) {
    RecfxRowUpdate turned = update;
    const uint8_t* from = to_present ? update.table : update.present;
    turned.table = to_present ? update.present : update.table;
    each_row(turned, update.kept, [&](int64_t, int64_t at) {
        std::memcpy(turned.table + at, from + at, size_t(update.row_bytes));
        return true;
    });
}

bool write_rows(const RecfxRowUpdate& update) {
    const auto* rows = static_cast<const uint8_t*>(update.rows);
    const auto* numbers = static_cast<const float*>(update.rows);
    const int64_t columns = update.columns;
    const auto with = [&](auto pack) {
        return each_row(update, update.kept, [&](int64_t i, int64_t at) { return pack(numbers + i * columns, columns, update.table + at); });
    };
    if (update.bits == 0 || update.bits == 32)
        return each_row(update, update.kept, [&](int64_t i, int64_t at) {
            std::memcpy(update.table + at, rows + i * update.row_bytes, size_t(update.row_bytes));
            return true;
        });
    if (update.bits == 16) return with(round_row);
    const recfx::EncodeRow encode = recfx::encode_row_of(update.bits);
    return encode && with(encode);
}

// Keeps the ids of an update; false where it may not be written, as far as that is known before: packing checks the numbers that it packs. To check
// the others row by row while they are copied takes longer, since fewer copies then run at a time.
bool fits(const RecfxRowUpdate& update) {
    if (update.struct_bytes != int64_t(sizeof(update))) return false;
    std::copy_n(update.ids, update.count, update.kept);  // the ids of an update without rows may be null
    if (!all_inside(update.kept, update.count, update.table_rows)) return false;
    return update.bits != 32 || finite(static_cast<const float*>(update.rows), update.count * update.columns);
}

// -1, or the position of an update with a number that its table cannot hold; all tables then have the present rows.
int64_t write_all(const RecfxRowUpdate* updates, int64_t count) {
    for (int64_t u = 0; u < count; ++u) {
        if (write_rows(updates[u])) continue;
        for (int64_t written = 0; written <= u; ++written) copy_rows(updates[written], false);
        return u;
    }
    return -1;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows,
                                                                               const float* values, int64_t columns);
extern "C" __attribute__((visibility("default"))) int64_t recfx_update_rows(const RecfxRowUpdate* updates, int64_t count,
                                                                               const RecfxRowUpdate* late, int64_t late_count,
                                                                               RecfxRowRecord* record);
extern "C" __attribute__((visibility("default"))) void recfx_copy_rows(const RecfxRowUpdate* updates, int64_t count, int32_t to_present);

extern "C" {

// Whether all ids are inside a table and all values [count, columns] are finite numbers.
int32_t recfx_rows_are_sound(const int64_t* ids, int64_t count, int64_t table_rows, const float* values, int64_t columns) {
    return all_inside(ids, count, table_rows) && finite(values, count * columns);
}

// Copies the rows of late updates to their `present`. Then writes row i of each update to row ids[i] of its table, in this order, so that the last
// row of an id stays, and appends the record, if there is one. Returns -1, or the position of an update with an id outside its table or a number that
// its table cannot hold; all tables then have the present rows, and so they have where the record is not written.
int64_t recfx_update_rows(const RecfxRowUpdate* updates, int64_t count, const RecfxRowUpdate* late, int64_t late_count, RecfxRowRecord* record) {
    recfx_copy_rows(late, late_count, 1);
    for (int64_t u = 0; u < count; ++u)
        if (!fits(updates[u])) return u;
    recfx::RecordWriter writer(record);
    if (!writer.ready()) return -1;
    const int64_t wrong = write_all(updates, count);
    if (wrong < 0 && !writer.append()) recfx_copy_rows(updates, count, 0);
    return wrong;
}

// Copies the rows of the ids of each update from `table` to `present`, or the other way.
void recfx_copy_rows(const RecfxRowUpdate* updates, int64_t count, int32_t to_present) {
    for (int64_t u = 0; u < count; ++u) copy_rows(updates[u], to_present);
}
}
