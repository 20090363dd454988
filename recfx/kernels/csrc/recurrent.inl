// The states of recurrent layers. A few sequences go through all steps together: the products of their states with the weights stay in registers
// until the gates are computed from them, and the states in the first-level cache. The input's terms are computed for a few steps at once.
//
// Every sum runs over the input or the state in order in one accumulator, in every tile: results do not depend on the number of rows or threads.
#pragma once
#include "gates.inl"
#include "kernels.h"
#include "pack.inl"
#include "tiles.inl"

namespace recfx {
namespace {

#if RECFX_LANES == 16 || defined(__aarch64__)
constexpr int STATE_ROWS = 8;  // 24 of 32 registers hold the sums of three gates
#else
constexpr int STATE_ROWS = 4;  // 12 of 16
#endif
constexpr int64_t TERM_STEPS = TILE_ROWS;  // whose input's terms are computed at once

struct Recurrence {
    const RecfxStep& step;
    const Context& context;
    int64_t first, per_batch;  // the first batch row, and its number of sequences
    int64_t steps, hidden, vectors;
    void (*new_states)(const GateSums&);  // of the cell: cells with as many gates differ in nothing else
    const float *weight, *candidate_bias, *input_bias;
    const uint32_t* input_weight;

    Recurrence(const RecfxStep& step_, const Context& context_, const Range& range, void (*new_states_)(const GateSums&))
        : step(step_), context(context_), first(range.begin), per_batch(step.out.size[0]), steps(step.ints[RecurrentInt::steps]),
          hidden(step.ints[RecurrentInt::hidden]), vectors((hidden + W - 1) / W), new_states(new_states_), weight(of<float>(RecurrentPointer::weight)),
          candidate_bias(of<float>(RecurrentPointer::bias)), input_bias(of<float>(RecurrentPointer::input_bias)),
          input_weight(of<uint32_t>(RecurrentPointer::input_weight)) {}

    template <class T>
    const T* of(int pointer) const {
        return static_cast<const T*>(step.pointers[pointer]);
    }
    // A view of a sequence; nullptr if it is absent.
    template <class T>
    T* of(const RecfxView& view, int64_t sequence) const {
        return view.slot < 0 ? nullptr : at<T>(context, view, first + sequence / per_batch) + sequence % per_batch * view.stride[0];
    }
    // The weights of vector `vector` of the gates; those of the next element of the state are PANEL behind.
    const float* weights(int64_t vector) const { return weight + vector / 2 * hidden * PANEL + vector % 2 * W; }
    // Where step `n` stands in a sequence.
    int64_t place(int64_t n, int64_t length) const { return step.ints[RecurrentInt::backwards] ? length - 1 - n : n; }

    // The number of steps of a sequence. False, after raising an error, if it is not from 1 to `steps`.
    bool find_length(int64_t sequence, int64_t& length) const {
        const RecfxView& lengths = step.views[RecurrentView::lengths];
        length = lengths.slot < 0 ? steps : *of<const int64_t>(lengths, sequence);
        if (length >= 1 && length <= steps) return true;
        context.errors->bad_length(context.step, first + sequence / per_batch, length, steps);
        return false;
    }
};

// The terms [vector][gate][W] of the steps [n, n + count) of a sequence, `term_stride` apart: computed from its inputs, or copied.
template <int G>
inline void input_terms(const Recurrence& r, const float* given, int64_t length, int64_t n, int64_t count, float* terms, int64_t term_stride) {
    const RecfxView& view = r.step.views[RecurrentView::given];
    const int64_t inputs = r.step.ints[RecurrentInt::inputs], by = view.stride[1], columns = r.vectors * G * W;
    if (!r.input_weight) {
        for (int64_t i = 0; i < count; ++i) {
            const float* from = given + r.place(n + i, length) * by;
            for (int64_t v = 0; v < r.vectors; ++v)
                for (int64_t g = 0; g < G; ++g) store(terms + i * term_stride + (v * G + g) * W, read_lanes(from + g * r.hidden + v * W, r.hidden - v * W));
        }
        return;
    }
    const int64_t first = r.place(n, length), last = r.place(n + count - 1, length), low = first < last ? first : last;
    EpilogueRow rows[TERM_STEPS] = {};
    for (int64_t i = 0; i < count; ++i) rows[r.place(n + i, length) - low].out = terms + i * term_stride;
    Epilogue e{{}, r.input_bias, nullptr, nullptr, rows, columns, false, true};
    const auto* x = reinterpret_cast<const uint32_t*>(given + low * by);
    multiply<DotF32>({x, r.input_weight, by, inputs * PANEL, inputs}, count, e, 0, (columns + PANEL - 1) / PANEL, false);
}

// Vectors [first, first + V) of the new states of MR rows. The sums start from the input's term, but for a GRU's candidate. The first `depth` elements
// of the states are multiplied: all, or none of states of zeros.
template <int G, int MR, int V>
inline void state_tile(const Recurrence& r, const StateRow* rows, int64_t depth, int64_t first) {
    constexpr int S = G * V;
    vf acc[MR][S];
    const float* weights[S];
    const float* states[MR];
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) weights[s] = r.weights(first * G + s);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
        states[i] = rows[i].state;
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) {
            const bool candidate = G == 3 && s % G == 2;
            if (!candidate) acc[i][s] = load(rows[i].term + (first * G + s) * W);
            else acc[i][s] = r.candidate_bias ? load(r.candidate_bias + (first + s / G) * W) : vf{};
        }
    }
    for (int64_t k = 0; k < depth; ++k) {
        vf b[S];
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) b[s] = load(weights[s] + k * PANEL);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const float x = states[i][k];
#pragma GCC unroll 16
            for (int s = 0; s < S; ++s) acc[i][s] = acc[i][s] + x * b[s];
        }
    }
    vf sums[MR][S];  // of its own, so that `acc`, whose address no call takes, stays in registers
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) sums[i][s] = acc[i][s];
    r.new_states({rows, sums[0], MR, first, V, r.hidden});
}

// One step of MR rows. V vectors at once give enough independent sums where there are few rows.
template <int G, int MR, int V>
inline void state_step(const Recurrence& r, const StateRow* rows, int64_t depth) {
    int64_t v = 0;
    for (; v + V <= r.vectors; v += V) state_tile<G, MR, V>(r, rows, depth, v);
    if constexpr (V > 1)
        for (; v < r.vectors; ++v) state_tile<G, MR, 1>(r, rows, depth, v);
}

// Memory for a tile of sequences: the terms of TERM_STEPS steps and an LSTM's memory of each, a state of zeros, and a place for results that nobody reads.
struct TileMemory {
    float *terms, *memories, *zeros, *unread;
};

// One sequence of a tile.
struct Sequence {
    const float *given, *shares;
    float* out;
    int64_t length;
};

// The first states of a tile's sequences. False, after raising an error, if a length is wrong.
template <int MR>
inline bool begin_tile(const Recurrence& r, int64_t number, const TileMemory& memory, Sequence* sequences, StateRow* rows) {
    const RecfxView *views = r.step.views, &first = views[RecurrentView::memory];
    const bool from_zero = views[RecurrentView::state].slot < 0;
    for (int i = 0; i < MR; ++i) {
        Sequence& one = sequences[i];
        one = {r.of<const float>(views[RecurrentView::given], number + i), r.of<const float>(views[RecurrentView::attention], number + i),
               r.of<float>(r.step.out, number + i), 0};
        if (!r.find_length(number + i, one.length)) return false;
        rows[i].state = from_zero ? memory.zeros : r.of<const float>(views[RecurrentView::state], number + i);
        rows[i].memory = memory.memories + i * r.vectors * W;
        const float* remembered = first.slot < 0 ? memory.zeros : r.of<const float>(first, number + i);
        __builtin_memcpy(rows[i].memory, remembered, size_t(r.hidden) * 4);
    }
    return true;
}

// Zeros after the last step of a sequence, and the states at its end.
template <int G>
inline void end_sequence(const Recurrence& r, const Sequence& one, const StateRow& row) {
    const int64_t by = r.step.out.stride[1], ends = r.step.ints[RecurrentInt::ends];
    const size_t bytes = size_t(r.hidden) * 4;
    for (int64_t n = one.length; n < r.steps; ++n) __builtin_memset(one.out + n * by, 0, bytes);
    if (ends > 0) __builtin_memcpy(one.out + r.steps * by, row.state, bytes);
    if (G == GATES<CELL_LSTM> && ends > 1) __builtin_memcpy(one.out + (r.steps + 1) * by, row.memory, bytes);
}

// All steps of MR sequences from number `number` on. A sequence that has ended takes part until the longest one ends, but nobody reads its results.
template <int G, int MR, int V>
__attribute__((noinline)) void all_steps(const Recurrence& r, int64_t number, const TileMemory& memory) {
    const int64_t width = r.vectors * G * W, share_by = r.step.views[RecurrentView::attention].stride[1], out_by = r.step.out.stride[1];
    const bool from_zero = r.step.views[RecurrentView::state].slot < 0;
    StateRow rows[MR] = {};
    Sequence sequences[MR];
    if (!begin_tile<MR>(r, number, memory, sequences, rows)) return;
    int64_t most = 0;
    for (const Sequence& one : sequences) most = one.length > most ? one.length : most;
    const int64_t parts = (most + TERM_STEPS - 1) / TERM_STEPS;
    for (int64_t part = 0; part < parts; ++part) {
        int64_t begin, end;
        split(most, part, parts, begin, end);
        for (int i = 0; i < MR; ++i) {
            const int64_t last = sequences[i].length < end ? sequences[i].length : end;
            if (begin < last)
                input_terms<G>(r, sequences[i].given, sequences[i].length, begin, last - begin, memory.terms + i * width, MR * width);
        }
        for (int64_t n = begin; n < end; ++n) {
            for (int i = 0; i < MR; ++i) {
                const Sequence& one = sequences[i];
                const bool ended = n >= one.length;
                const int64_t place = r.place(n, one.length);
                rows[i].remember = ended ? memory.unread : rows[i].memory;
                rows[i].out = ended ? memory.unread : one.out + place * out_by;
                if (ended) continue;
                rows[i].term = memory.terms + ((n - begin) * MR + i) * width;
                if (one.shares) rows[i].attention = one.shares[place * share_by];
            }
            state_step<G, MR, V>(r, rows, n == 0 && from_zero ? 0 : r.hidden);
            for (int i = 0; i < MR; ++i)
                if (n < sequences[i].length) rows[i].state = rows[i].out;
        }
    }
    for (int i = 0; i < MR; ++i) end_sequence<G>(r, sequences[i], rows[i]);
}

// A few sequences have several vectors of a tile at once, so that there are enough independent sums.
constexpr int vectors_of(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

using AllSteps = void (*)(const Recurrence&, int64_t, const TileMemory&);

template <int G, int Most, int MR = 1>
inline AllSteps all_steps_of(int64_t count) {
    if constexpr (MR > Most) return nullptr;
    else return count == MR ? &all_steps<G, MR, vectors_of(MR)> : all_steps_of<G, Most, MR + 1>(count);
}

// Sequences [begin, end) in tiles of about equal size.
template <int G>
void all_sequences(const Recurrence& r, int64_t begin, int64_t end) {
    constexpr int most = G == 4 ? STATE_ROWS * 3 / 4 : STATE_ROWS;  // a fourth gate takes the registers of rows
    const int64_t tiles = (end - begin + most - 1) / most;
    const size_t state = size_t(r.vectors * W), terms = size_t(TERM_STEPS * most * G) * state, bytes = (terms + (most + 2) * state) * 4;
    auto* held = static_cast<float*>(r.context.scratch->at_least(bytes));
    if (!held) return r.context.errors->no_memory(r.context.step, int64_t(bytes));
    const TileMemory memory{held, held + terms, held + terms + most * state, held + terms + (most + 1) * state};
    __builtin_memset(memory.zeros, 0, state * 4);
    for (int64_t t = 0; t < tiles; ++t) {
        int64_t first, last;
        split(end - begin, t, tiles, first, last);
        all_steps_of<G, most>(last - first)(r, begin + first, memory);
    }
}

template <int64_t Cell>
void run_cell(const RecfxStep& step, const Context& context, const Range& range) {
    const Recurrence r(step, context, range, &apply_gates<Cell>);
    int64_t begin, end;
    split((range.end - range.begin) * r.per_batch, range.part, range.parts, begin, end);
    all_sequences<GATES<Cell>>(r, begin, end);
}

void recurrent_step(const RecfxStep& step, const Context& context, const Range& range) {
    switch (step.ints[RecurrentInt::cell]) {
        case CELL_LSTM: return run_cell<CELL_LSTM>(step, context, range);
        case CELL_TANH: return run_cell<CELL_TANH>(step, context, range);
        case CELL_RELU: return run_cell<CELL_RELU>(step, context, range);
        case CELL_ATTENTION: return run_cell<CELL_ATTENTION>(step, context, range);
        default: return run_cell<CELL_GRU>(step, context, range);
    }
}

}  // namespace
}  // namespace recfx
