// The plain C interface between the lowering (Python) and the kernels: a plan is a list of steps over slots.
//
// A slot is a buffer with one run of elements per batch row. A view names elements of a row by offset, sizes and strides. A step reads views and
// writes one view, for a range of batch rows. Everything is plain data, so that a plan can be written by any language and compared byte by byte.
#pragma once
#include <cstdint>

#include "codes.h"
#include "slots.h"

extern "C" {

struct RecfxSlot {
    int32_t kind;  // a RecfxSlotKind
    int32_t dtype;
    union {
        int32_t argument;  // RECFX_INPUT and RECFX_OUTPUT: the position of the caller's pointer
        int32_t width;     // RECFX_TEMP: elements of a batch row
    };
    int32_t once;        // one row for the whole batch
    int64_t row_stride;  // elements from one batch row to the next; 0 with once and for jagged inputs
    union {
        void* data;     // RECFX_CONST: the memory
        int64_t group;  // RECFX_TEMP: temporaries of one group share their memory
    };
};

struct RecfxView {
    int32_t slot;  // -1: absent
    int32_t rank;
    int64_t offset;
    int64_t size[RECFX_RANK];
    int64_t stride[RECFX_RANK];
};

struct RecfxStep {
    int32_t kind;  // a RecfxStepKind, which gives the arguments below their meaning: see slots.h
    int32_t once;  // runs for one row, before the others
    RecfxView views[RECFX_VIEWS];
    RecfxView out;
    int64_t ints[RECFX_INTS];
    double floats[RECFX_FLOATS];
    const void* pointers[RECFX_POINTERS];
};

// One feature of a grouped lookup. The fields have the meaning of those of recfx.ops.lookup.Feature.
struct RecfxFeature {
    const void* rows;
    int64_t row_count;
    int64_t row_bytes;
    int32_t format;  // a RecfxRowFormat
    int32_t dim;
    int64_t output;
    int32_t ids;  // slots
    int32_t offsets;
    int32_t weights;
    int32_t pooling;  // a RecfxPooling
    int64_t ids_offset, ids_stride;          // element of the first id; elements from one id of a bag to the next
    int64_t weights_offset, weights_stride;  // the same for the weights
    int64_t length;                          // -1: jagged
    int64_t segment, segments, last;
    int64_t padding, base;
    int64_t ids_row, weights_row;            // elements from one row to the next, where a batch row holds several
};

struct RecfxError {
    int64_t code;  // 0: no error; otherwise a RecfxErrorCode
    int64_t step, feature, row;
    union {
        int64_t id;        // RECFX_BAD_ID
        int64_t offset;    // RECFX_BAD_OFFSETS, RECFX_IDS_BEHIND_BAGS
        int64_t length;    // RECFX_BAD_LENGTH
        int64_t bytes;     // RECFX_NO_MEMORY
        int64_t argument;  // RECFX_NULL_ARGUMENT: the position of the caller's pointer
    };
    int64_t limit;  // rows of the table, elements of the ids, or steps of the sequences
};

// One batch of a pairwise ranking loss. Tables and gradients are dense float32; ids are rows of the tables.
struct RecfxBpr {
    const float *user_table, *item_table;  // [user_count, columns], [item_count, columns]
    float *user_gradient, *item_gradient;  // of the same sizes, overwritten
    const int64_t *users, *positives;      // [batch]
    const int64_t* negatives;              // [batch, negative_count]
    float *slopes, *user_shares;           // scratch [batch, negative_count] and [batch, columns]
    double* losses;                        // [batch], summed over a sample's negatives
    int64_t user_count, item_count, columns, batch, negative_count;
    int64_t joint;  // 0: one loss for every negative (Bayesian personalised ranking); 1: one softmax over the positive and all negatives
};
}
