// The functions of one instruction-set level, and the context in which a step runs.
#pragma once
#include <atomic>
#include <cstddef>
#include "abi.h"

namespace recfx {

// A slot while a plan runs: the address of batch row `first_row`.
struct Bound {
    char* base;
    int64_t first_row;
    int64_t row_stride;  // elements
    int64_t count;       // elements of a jagged input, for its bounds
    int32_t dtype;
};

// Scratch memory of a thread. It grows on demand and is kept between calls.
class Scratch {
  public:
    ~Scratch();
    void* at_least(size_t bytes);  // 64-byte aligned; nullptr when there is no memory

  private:
    void* memory_ = nullptr;
    size_t size_ = 0;
};

struct Errors {
    std::atomic<int64_t> raised{0};
    RecfxError first{};
    void raise(const RecfxError& error);  // keeps the first
    void no_memory(int64_t step, int64_t bytes) { raise({RECFX_NO_MEMORY, step, 0, 0, {bytes}, 0}); }
    void bad_id(int64_t step, int64_t feature, int64_t row, int64_t id, int64_t limit) { raise({RECFX_BAD_ID, step, feature, row, {id}, limit}); }
    void bad_length(int64_t step, int64_t row, int64_t length, int64_t limit) { raise({RECFX_BAD_LENGTH, step, 0, row, {length}, limit}); }
    void bad_offsets(int64_t step, int64_t feature, int64_t row, int64_t offset, int64_t limit) {
        raise({RECFX_BAD_OFFSETS, step, feature, row, {offset}, limit});
    }
    void ids_behind_bags(int64_t step, int64_t feature, int64_t row, int64_t offset, int64_t limit) {
        raise({RECFX_IDS_BEHIND_BAGS, step, feature, row, {offset}, limit});
    }
};

// A range of work: batch rows [begin, end); with `parts` > 1, only its part number `part`. Each kind of step splits its work in its own way.
struct Range {
    int64_t begin, end;
    int64_t part, parts;
    int64_t batch;  // rows of the whole call
};

struct Context {
    const Bound* slots;
    Scratch* scratch;
    Errors* errors;
    int64_t step;
    bool backward;  // every other call of a plan
};

inline int64_t size_of(int32_t dtype) {
    switch (dtype) {
        case RECFX_I64: return 8;
        case RECFX_U8: return 1;
        case RECFX_BF16:
        case RECFX_F16: return 2;
        default: return 4;
    }
}

// The address of a view's first element in batch row `row`.
template <class T>
inline T* at(const Context& context, const RecfxView& view, int64_t row) {
    const Bound& slot = context.slots[view.slot];
    const int64_t element = (row - slot.first_row) * slot.row_stride + view.offset;
    return reinterpret_cast<T*>(slot.base + element * size_of(slot.dtype));
}

// The items [begin, end) of part `part` when `count` items are split into `parts` parts.
inline void split(int64_t count, int64_t part, int64_t parts, int64_t& begin, int64_t& end) {
    begin = count * part / parts;
    end = count * (part + 1) / parts;
}

// The positions of the first `k` of `n` keys, in the order of a RecfxTies. `scratch` holds n pairs of 16 bytes. NaN counts as the largest key.
void order_floats(const float* keys, int64_t n, int64_t k, bool largest, int64_t ties, void* scratch, int64_t* positions);
void order_whole(const int64_t* keys, int64_t n, int64_t k, bool largest, int64_t ties, void* scratch, int64_t* positions);

using StepFunction = void (*)(const RecfxStep&, const Context&, const Range&);

// Shapes of packed weights: panels of `columns` columns, `depth` consecutive inputs in one 32-bit unit.
struct Packing {
    int64_t columns;
    int64_t depth_f32, depth_bf16, depth_i8;
};

// A graph propagation, see recfx_propagate. Layers alternate between the scratch and `out` such that the last one lands in `out`; with
// bfloat16 they alternate within the scratch.
struct Propagation {
    const float* x;
    float* out;
    void* scratch;
    const int64_t* offsets;
    const int32_t* neighbours;
    const float* scale;
    int64_t rows, columns;
    const float* weights;
    int64_t layers;
    bool halved;

    float* full_of(int64_t layer) const { return (layers - layer) % 2 ? static_cast<float*>(scratch) : out; }
    uint16_t* half_of(int64_t layer) const { return static_cast<uint16_t*>(scratch) + layer % 2 * rows * columns; }
};

// A batch of recfx_bpr.
struct Bpr : RecfxBpr {
    const float* user_row(int64_t b) const { return user_table + users[b] * columns; }
    const float* positive_row(int64_t b) const { return item_table + positives[b] * columns; }
    const float* negative_row(int64_t b, int64_t m) const { return item_table + negatives[b * negative_count + m] * columns; }
};

struct Steps {
    StepFunction of_kind[RECFX_STEP_KINDS];  // indexed by RecfxStepKind
};

struct Level {
    const char* name;
    Packing packing;
    Steps steps;
    StepFunction announce;  // prefetches the first rows of a lookup
    // Packs W [n, k] of a RecfxWeightFormat into panels; bfloat16 is given as float32.
    void (*pack)(int32_t format, const void* weight, int64_t n, int64_t k, uint32_t* packed);
    void (*propagate)(const Propagation& work, int64_t layer, int64_t begin, int64_t end);
    void (*bpr_slopes)(const Bpr& work, int64_t begin, int64_t end);
    void (*bpr_user_rows)(const Bpr& work, int64_t first, int64_t last);
    void (*bpr_item_rows)(const Bpr& work, int64_t first, int64_t last);
};

// nullptr: there is no such level, or this processor does not run it.
const Level* find_level(const char* name);

const Level* level_amx();
const Level* level_avx512_bf16();
const Level* level_avx512();
const Level* level_avx2();
const Level* level_neon_dotprod();
const Level* level_portable();

}  // namespace recfx
