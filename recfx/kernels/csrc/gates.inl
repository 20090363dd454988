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

// Several rows are computed together, so that their chains of operations overlap.
constexpr int TOGETHER = 2;

// The new states at lanes [at, at + W). Written per gate, so that the same operation of all rows stands side by side.
template <int64_t Cell>
inline void new_states(const GateSums& g, const StateRow* const* rows, const vf* const* sums, int64_t vector) {
    const int64_t at = vector * W, left = g.hidden - at;
    vf state[TOGETHER], memory[TOGETHER];
    auto each = [](auto f) {
#pragma GCC unroll 4
        for (int i = 0; i < TOGETHER; ++i) f(i);
    };
    if constexpr (Cell == CELL_LSTM) {
        vf in[TOGETHER], kept[TOGETHER], fresh[TOGETHER], shown[TOGETHER];
        each([&](int i) { in[i] = sigmoid(sums[i][0]); });
        each([&](int i) { kept[i] = sigmoid(sums[i][1]); });
        each([&](int i) { fresh[i] = tanh_(sums[i][2]); });
        each([&](int i) { memory[i] = in[i] * fresh[i] + kept[i] * read_lanes(rows[i]->memory + at, left); });
        each([&](int i) { shown[i] = sigmoid(sums[i][3]); });
        each([&](int i) { state[i] = shown[i] * tanh_(memory[i]); });
        each([&](int i) { write_lanes(rows[i]->remember + at, memory[i], left); });
    } else if constexpr (Cell == CELL_TANH || Cell == CELL_RELU) {
        each([&](int i) { state[i] = Cell == CELL_TANH ? tanh_(sums[i][0]) : sums[i][0] < 0.0f ? splat(0.0f) : sums[i][0]; });
    } else {
        vf reset[TOGETHER], update[TOGETHER], fresh[TOGETHER];
        each([&](int i) { reset[i] = sigmoid(sums[i][0]); });
        each([&](int i) { update[i] = sigmoid(sums[i][1]); });
        each([&](int i) { fresh[i] = tanh_(load(rows[i]->term + (vector * 3 + 2) * W) + reset[i] * sums[i][2]); });
        each([&](int i) {
            const vf before = read_lanes(rows[i]->state + at, left);
            if constexpr (Cell == CELL_ATTENTION) {
                const vf share = rows[i]->attention * update[i];
                state[i] = (1.0f - share) * before + share * fresh[i];
            } else {
                state[i] = (before - fresh[i]) * update[i] + fresh[i];
            }
        });
    }
    each([&](int i) { write_lanes(rows[i]->out + at, state[i], left); });
}

// Not inlined: in tiles of different sizes the compiler could fuse other products with their sums, and the results would differ. The last of an
// odd number of rows is computed twice.
template <int64_t Cell>
__attribute__((noinline)) void apply_gates(const GateSums& g) {
    const int64_t row_sums = g.vectors * GATES<Cell>;
    for (int64_t i = 0; i < g.count; i += TOGETHER) {
        const StateRow* rows[TOGETHER];
        const vf* sums[TOGETHER];
        for (int j = 0; j < TOGETHER; ++j) {
            const int64_t row = i + j < g.count ? i + j : g.count - 1;
            rows[j] = g.rows + row;
            sums[j] = g.sums + row * row_sums;
        }
        for (int64_t v = 0; v < g.vectors; ++v) {
            new_states<Cell>(g, rows, sums, g.first + v);
            for (int j = 0; j < TOGETHER; ++j) sums[j] += GATES<Cell>;
        }
    }
}

}  // namespace
}  // namespace recfx
