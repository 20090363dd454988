// New rows of a table, as recfx/kernels/row_writes.py passes them.
#pragma once
#include <cstdint>

extern "C" {

// New rows [count, columns] of one table that is held twice: `table` is written to while calls read `present`, and the rows are copied there later.
struct RecfxRowUpdate {
    int64_t struct_bytes;
    int64_t bits;              // of a number in the table: 32 and 16 (bfloat16), 8, 4 and 2 with a scale and a bias for each row. Rows are float32.
                               // 0: rows are bytes as the table holds them, and their numbers were checked before
    const int64_t* ids;        // [count]
    int64_t count;
    const void* rows;
    int64_t columns;
    uint8_t* table;            // [table_rows, row_bytes]
    uint8_t* present;          // of the same sizes
    int64_t table_rows;
    int64_t row_bytes;
};
}
