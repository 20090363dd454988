// The gates of recurrent cells: from sums over the input and the state to the new state.
#pragma once
#include "functions.inl"
#include "kernels.h"

namespace recfx {
namespace {

// What the new state of one sequence is computed from, apart from the sums.
struct StateRow {
    const float* term;  // of the input, [vector][gate][W]
    const float* state;
    float attention;
    float* out;
    float* memory;    // of an LSTM
    float* remember;  // where its new memory goes
};

// The sums of tiles of states: `vectors` vectors of W hidden units from `first` on, for each of them one sum for each gate.
struct GateSums {
    const StateRow* rows;
    const vf* sums;  // [row][vector][gate]
    int64_t count, first, vectors;
    int64_t hidden;
};

inline vf read_lanes(const float* p, int64_t left) { return left >= W ? load(p) : load_some(p, left); }
inline void write_lanes(float* p, vf v, int64_t left) {
    if (left >= W) store(p, v);
    else store_some(p, v, left);
}

template <int64_t Cell>
constexpr int GATES = Cell == CELL_LSTM ? 4 : Cell == CELL_TANH || Cell == CELL_RELU ? 1 : 3;

// Several vectors are computed together, so that their chains of operations overlap.
constexpr int TOGETHER = 4;

// A vector of W hidden units of one row.
struct GateVector {
    const StateRow* row;
    const vf* sums;  // one for each gate
    int64_t at;      // its first hidden unit
    int64_t left;    // hidden units from there on
};

// The new states of a few vectors. Written per gate, so that the same operation of all vectors stands side by side.
template <int64_t Cell>
inline void new_states(const GateVector* vectors) {
    vf state[TOGETHER], memory[TOGETHER];
    auto each = [](auto f) {
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) f(i);
    };
    if constexpr (Cell == CELL_LSTM) {
        vf in[TOGETHER], kept[TOGETHER], fresh[TOGETHER], shown[TOGETHER];
        each([&](int i) { in[i] = sigmoid(vectors[i].sums[0]); });
        each([&](int i) { kept[i] = sigmoid(vectors[i].sums[1]); });
        each([&](int i) { fresh[i] = tanh_(vectors[i].sums[2]); });
        each([&](int i) { memory[i] = in[i] * fresh[i] + kept[i] * read_lanes(vectors[i].row->memory + vectors[i].at, vectors[i].left); });
        each([&](int i) { shown[i] = sigmoid(vectors[i].sums[3]); });
        each([&](int i) { state[i] = shown[i] * tanh_(memory[i]); });
        each([&](int i) { write_lanes(vectors[i].row->remember + vectors[i].at, memory[i], vectors[i].left); });
    } else if constexpr (Cell == CELL_TANH || Cell == CELL_RELU) {
        each([&](int i) { state[i] = Cell == CELL_TANH ? tanh_(vectors[i].sums[0]) : vectors[i].sums[0] < 0.0f ? splat(0.0f) : vectors[i].sums[0]; });
    } else {
        vf reset[TOGETHER], update[TOGETHER], fresh[TOGETHER];
        each([&](int i) { reset[i] = sigmoid(vectors[i].sums[0]); });
        each([&](int i) { update[i] = sigmoid(vectors[i].sums[1]); });
        each([&](int i) { fresh[i] = tanh_(load(vectors[i].row->term + vectors[i].at * 3 + 2 * W) + reset[i] * vectors[i].sums[2]); });
        each([&](int i) {
            const vf before = read_lanes(vectors[i].row->state + vectors[i].at, vectors[i].left);
            if constexpr (Cell == CELL_ATTENTION) {
                const vf share = vectors[i].row->attention * update[i];
                state[i] = (1.0f - share) * before + share * fresh[i];
            } else {
                state[i] = (before - fresh[i]) * update[i] + fresh[i];
            }
        });
    }
    each([&](int i) { write_lanes(vectors[i].row->out + vectors[i].at, state[i], vectors[i].left); });
}

// Not inlined: in tiles of different sizes the compiler could fuse other products with their sums, and the results would differ. Where vectors are
// missing at the end, the last one is computed several times.
template <int64_t Cell>
__attribute__((noinline)) void apply_gates(const GateSums& g) {
    const int64_t count = g.count * g.vectors;
    int64_t row = 0, v = 0;
    for (int64_t first = 0; first < count; first += TOGETHER) {
        GateVector vectors[TOGETHER];
        for (int i = 0; i < TOGETHER; ++i) {
            const int64_t at = (g.first + v) * W;
            vectors[i] = {g.rows + row, g.sums + (row * g.vectors + v) * GATES<Cell>, at, g.hidden - at};
            if (first + i + 1 >= count) continue;
            if (++v == g.vectors) v = 0, ++row;
        }
        new_states<Cell>(vectors);
    }
}

}  // namespace
}  // namespace recfx
