// New rows of a table, as recfx/kernels/row_writes.py passes them.
#pragma once
#include <sys/uio.h>

#include <cstdint>

extern "C" {

// New rows [count, columns] of one table that is held twice: `table` is written to while calls read `present`, and the rows are copied there later.
struct RecfxRowUpdate {
    int64_t struct_bytes;
    int64_t bits;              // of a number in the table: 32 and 16 (bfloat16), 8, 4 and 2 with a scale and a bias for each row. Rows are float32.
                               // 0: rows are bytes as the table holds them, and their numbers were checked before
    const int64_t* ids;        // [count]
    int64_t* kept;             // [count]: receives the ids that were written, since another thread may change the tensors of the caller
    int64_t count;
    const void* rows;
    int64_t columns;
    uint8_t* table;            // [table_rows, row_bytes]
    uint8_t* present;          // of the same sizes
    int64_t table_rows;
    int64_t row_bytes;
};

// What became of a record of a journal. NOT_READY: the file is locked, longer than its writer knows, or not at its path any more; nothing was done.
enum { RECFX_RECORD_NOT_READY, RECFX_RECORD_WRITTEN, RECFX_RECORD_REFUSED };

// A record of a journal, which is appended before its rows become visible.
struct RecfxRowRecord {
    int64_t struct_bytes;
    int64_t file;        // the descriptor
    const char* path;    // of the same file
    int64_t locked;      // whether the caller holds its lock
    int64_t to_disk;     // whether to wait for the disk
    int64_t position;    // the end of the file as the writer knows it, and then with the record
    iovec* parts;        // [part_count]: room for the head, and the payload. They are changed
    int64_t part_count;
    int64_t status;
    int64_t error;       // of the system, where it refused
};
}
