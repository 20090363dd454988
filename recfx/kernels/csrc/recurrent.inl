// The states of recurrent layers. A few batch rows go through all steps together: the products of their states with the weights stay in registers
// until the gates are computed from them, and the states in the first-level cache.
//
// Every sum runs over the state in order in one accumulator, in every tile: results do not depend on the number of rows or threads.
#pragma once
#include "functions.inl"
#include "kernels.h"
#include "pack.inl"

namespace recfx {
namespace {

#if RECFX_LANES == 16 || defined(__aarch64__)
constexpr int STATE_ROWS = 8;  // 24 of 32 registers hold the sums of three gates
#else
constexpr int STATE_ROWS = 4;  // 12 of 16
#endif

struct StateRow;

struct Recurrence {
    const float *weight, *bias;
    int64_t hidden, memory_at;
    void (*gates)(const Recurrence& r, const StateRow& row, const vf* products, int64_t at);  // `apply_gates` of the cell

    // The weights of vector `vector` of the gates; those of the next element of the state are PANEL behind.
    const float* weights(int64_t vector) const { return weight + vector / 2 * hidden * PANEL + vector % 2 * W; }
};

// The memory of one batch row at one step.
struct StateRow {
    const float *given, *state, *memory;
    float attention;
    float* out;
};

inline vf read_lanes(const float* p, int64_t left) { return left >= W ? load(p) : load_some(p, left); }
inline void write_lanes(float* p, vf v, int64_t left) {
    if (left >= W) store(p, v);
    else store_some(p, v, left);
}

// The new state at lanes [at, at + W) from the products of the state with the weights of each gate. Not inlined: in tiles of different sizes the
// compiler could fuse other products with their sums, and the results would differ.
template <int64_t Cell>
__attribute__((noinline)) void apply_gates(const Recurrence& r, const StateRow& row, const vf* products, int64_t at) {
    const int64_t left = r.hidden - at;
    auto gate = [&](int number) { return read_lanes(row.given + number * r.hidden + at, left); };
    if constexpr (Cell == CELL_LSTM) {
        const vf in = sigmoid(gate(0) + products[0]), kept = sigmoid(gate(1) + products[1]), fresh = tanh_(gate(2) + products[2]);
        const vf memory = in * fresh + kept * read_lanes(row.memory + at, left);
        write_lanes(row.out + r.memory_at + at, memory, left);
        write_lanes(row.out + at, sigmoid(gate(3) + products[3]) * tanh_(memory), left);
    } else if constexpr (Cell == CELL_TANH || Cell == CELL_RELU) {
        const vf sum = gate(0) + products[0];
        write_lanes(row.out + at, Cell == CELL_TANH ? tanh_(sum) : (sum < 0.0f ? splat(0.0f) : sum), left);
    } else {
        const vf reset = sigmoid(gate(0) + products[0]), update = sigmoid(gate(1) + products[1]), state = read_lanes(row.state + at, left);
        const vf term = r.bias ? products[2] + load(r.bias + at) : products[2];
        const vf fresh = tanh_(gate(2) + reset * term);
        if constexpr (Cell == CELL_ATTENTION) {
            const vf share = row.attention * update;
            write_lanes(row.out + at, (1.0f - share) * state + share * fresh, left);
        } else {
            write_lanes(row.out + at, (state - fresh) * update + fresh, left);
        }
    }
}

// Vectors [first, first + V) of the new states of MR rows, from G gates.
template <int G, int MR, int V>
inline void state_tile(const Recurrence& r, const StateRow* rows, int64_t first) {
    vf acc[MR][G * V] = {};
    const float* weights[G * V];
    const float* states[MR];
#pragma GCC unroll 16
    for (int g = 0; g < G * V; ++g) weights[g] = r.weights(first * G + g);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) states[i] = rows[i].state;
    for (int64_t k = 0; k < r.hidden; ++k) {
        vf b[G * V];
#pragma GCC unroll 16
        for (int g = 0; g < G * V; ++g) b[g] = load(weights[g] + k * PANEL);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const float x = states[i][k];
#pragma GCC unroll 16
            for (int g = 0; g < G * V; ++g) acc[i][g] = acc[i][g] + x * b[g];
        }
    }
    vf sums[MR][G * V];  // of its own, so that `acc`, whose address no call takes, stays in registers
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
        for (int g = 0; g < G * V; ++g) sums[i][g] = acc[i][g];
    for (int i = 0; i < MR; ++i)
        for (int v = 0; v < V; ++v) r.gates(r, rows[i], sums[i] + v * G, (first + v) * W);
}

// One step of MR rows. V vectors at once give enough independent sums where there are few rows.
template <int G, int MR, int V>
inline void state_step(const Recurrence& r, const StateRow* rows) {
    const int64_t vectors = (r.hidden + W - 1) / W;
    int64_t v = 0;
    for (; v + V <= vectors; v += V) state_tile<G, MR, V>(r, rows, v);
    if constexpr (V > 1)
        for (; v < vectors; ++v) state_tile<G, MR, 1>(r, rows, v);
}

// The sequences of a step: `per_batch` of each batch row.
struct Sequences {
    const RecfxStep& step;
    const Context& context;
    int64_t first, per_batch;

    template <class T>
    T* of(const RecfxView& view, int64_t sequence) const {
        return at<T>(context, view, first + sequence / per_batch) + sequence % per_batch * view.stride[0];
    }
};

// All steps of MR sequences from `sequence` on.
template <int G, int MR, int V>
__attribute__((noinline)) void all_steps(const Sequences& all, const Recurrence& r, int64_t sequence) {
    const RecfxStep& step = all.step;
    const RecfxView &given = step.views[RecurrentView::given], &attention = step.views[RecurrentView::attention];
    const RecfxView &state = step.views[RecurrentView::state], &memory = step.views[RecurrentView::memory];
    const int64_t steps = step.ints[RecurrentInt::steps];
    StateRow rows[MR];
    const float *terms[MR], *shares[MR];
    float* out[MR];
    for (int i = 0; i < MR; ++i) {
        rows[i].state = all.of<const float>(state, sequence + i);
        rows[i].memory = memory.slot < 0 ? nullptr : all.of<const float>(memory, sequence + i);
        rows[i].attention = 0;
        terms[i] = all.of<const float>(given, sequence + i);
        shares[i] = attention.slot < 0 ? nullptr : all.of<const float>(attention, sequence + i);
        out[i] = all.of<float>(step.out, sequence + i);
    }
    for (int64_t n = 0; n < steps; ++n) {
        const int64_t place = step.ints[RecurrentInt::backwards] ? steps - 1 - n : n;
        for (int i = 0; i < MR; ++i) {
            rows[i].given = terms[i] + place * given.stride[1];
            if (shares[i]) rows[i].attention = shares[i][place * attention.stride[1]];
            rows[i].out = out[i] + place * step.out.stride[1];
        }
        state_step<G, MR, V>(r, rows);
        for (int i = 0; i < MR; ++i) {
            rows[i].state = rows[i].out;
            rows[i].memory = rows[i].out + r.memory_at;
        }
    }
}

// A few sequences have several vectors of a tile at once, so that there are enough independent sums.
constexpr int vectors_of(int rows) { return rows == 1 ? 3 : rows <= 3 ? 2 : 1; }

using AllSteps = void (*)(const Sequences&, const Recurrence&, int64_t);

template <int G, int Most, int MR = 1>
inline AllSteps all_steps_of(int64_t count) {
    if constexpr (MR > Most) return nullptr;
    else return count == MR ? &all_steps<G, MR, vectors_of(MR)> : all_steps_of<G, Most, MR + 1>(count);
}

// Sequences [begin, end) in tiles of about equal size.
template <int G>
inline void all_sequences(const Sequences& all, const Recurrence& r, int64_t begin, int64_t end) {
    constexpr int most = G == 4 ? STATE_ROWS * 3 / 4 : STATE_ROWS;  // a fourth gate takes the registers of rows
    const int64_t tiles = (end - begin + most - 1) / most;
    for (int64_t t = 0; t < tiles; ++t) {
        int64_t first, last;
        split(end - begin, t, tiles, first, last);
        all_steps_of<G, most>(last - first)(all, r, begin + first);
    }
}

void recurrent_step(const RecfxStep& step, const Context& context, const Range& range) {
    const Sequences all{step, context, range.begin, step.out.size[0]};
    int64_t begin, end;
    split((range.end - range.begin) * all.per_batch, range.part, range.parts, begin, end);
    Recurrence r{static_cast<const float*>(step.pointers[RecurrentPointer::weight]), static_cast<const float*>(step.pointers[RecurrentPointer::bias]),
                 step.ints[RecurrentInt::hidden], step.ints[RecurrentInt::memory_at], &apply_gates<CELL_GRU>};
    switch (step.ints[RecurrentInt::cell]) {
        case CELL_LSTM: r.gates = &apply_gates<CELL_LSTM>; return all_sequences<4>(all, r, begin, end);
        case CELL_TANH: r.gates = &apply_gates<CELL_TANH>; return all_sequences<1>(all, r, begin, end);
        case CELL_RELU: r.gates = &apply_gates<CELL_RELU>; return all_sequences<1>(all, r, begin, end);
        case CELL_ATTENTION: r.gates = &apply_gates<CELL_ATTENTION>; break;
        default: break;
    }
    all_sequences<3>(all, r, begin, end);
}

}  // namespace
}  // namespace recfx
