// The plain C interface between the lowering (Python) and the kernels: a plan is a list of steps over slots.
//
// A slot is a buffer with one run of elements per batch row. A view names elements of a row by offset, sizes and strides. A step reads views and
// writes one view, for a range of batch rows. Everything is plain data, so that a plan can be written by any language and compared byte by byte.
#pragma once
#include <cstdint>

#include "codes.h"

extern "C" {

enum { RECFX_RANK = 4, RECFX_VIEWS = 8, RECFX_INTS = 48, RECFX_FLOATS = 24, RECFX_POINTERS = 12 };

struct RecfxSlot {
    int32_t kind;
    int32_t dtype;
    int32_t argument;    // which of the caller's pointers (inputs and outputs); elements of a batch row (temporaries)
    int32_t once;        // one row for the whole batch
    int64_t row_stride;  // elements from one batch row to the next; 0 with once and for jagged inputs
    void* data;          // RECFX_CONST: the memory; RECFX_TEMP: the group that shares memory, as a number
};

struct RecfxView {
    int32_t slot;  // -1: absent
    int32_t rank;
    int64_t offset;
    int64_t size[RECFX_RANK];
    int64_t stride[RECFX_RANK];
};

struct RecfxStep {
    int32_t kind;
    int32_t once;  // runs for one row, before the others
    RecfxView views[RECFX_VIEWS];
    RecfxView out;
    int64_t ints[RECFX_INTS];
    double floats[RECFX_FLOATS];
    const void* pointers[RECFX_POINTERS];
};

// One feature of a grouped lookup; the meaning of the fields is that of recfx.ops.lookup.Feature.
struct RecfxFeature {
    const void* rows;
    int64_t row_count;
    int64_t row_bytes;
    int32_t format;  // 32 float, 16 bfloat16, 17 half, 8 / 4 / 2 / 1 row-wise bits
    int32_t dim;
    int64_t output;
    int32_t ids;  // slots
    int32_t offsets;
    int32_t weights;
    int32_t pooling;
    int64_t ids_offset, ids_stride;          // element of the first id; elements from one id of a bag to the next
    int64_t weights_offset, weights_stride;  // likewise
    int64_t length;                          // -1: jagged
    int64_t segment, segments, last;
    int64_t padding, base;
    int64_t ids_row, weights_row;            // elements from one row to the next, where a batch row holds several
};

struct RecfxError {
    int64_t code;     // 0 none, or a RecfxErrorCode; of RECFX_NULL_ARGUMENT, `value` is the argument
    int64_t step, feature, row, value, limit;
};

// One batch of a pairwise ranking loss. Tables and gradients are dense float32; ids are rows of the tables.
struct RecfxBpr {
    const float *user_table, *item_table;  // [user_count, columns], [item_count, columns]
    float *user_gradient, *item_gradient;  // likewise, overwritten
    const int64_t *users, *positives;      // [batch]
    const int64_t* negatives;              // [batch, negative_count]
    float *slopes, *user_shares;           // scratch [batch, negative_count] and [batch, columns]
    double* losses;                        // [batch], summed over a sample's negatives
    int64_t user_count, item_count, columns, batch, negative_count;
    int64_t joint;  // 0: every negative is a loss of its own, Bayesian personalised ranking; 1: one softmax over the positive and all negatives
};
}
