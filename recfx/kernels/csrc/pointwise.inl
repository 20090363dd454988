// Element-wise arithmetic: a short program of operations over registers of a few vectors, so that a chain of them reads and writes memory once.
//
// ints: count of operations, then (operation, left, right) each; registers 0..7 are the views, the result of operation i is register 8 + i.
// floats: the constant of each operation that has one. Inputs are float32, or integers and booleans turned to float32.
#pragma once

constexpr int64_t LANES = 64, REGISTERS = RECFX_VIEWS + (RECFX_INTS - 1) / 3;

// N vectors of numbers. Short rows take few, so that little is computed beyond their ends.
template <int N>
struct Lines {
    static constexpr int64_t lanes = N * W;
    vf v[N];
};
using Register = Lines<int(LANES / W)>;

template <int N, class F>
inline void each(Lines<N>& to, F f) {
    for (int i = 0; i < N; ++i) to.v[i] = f(i);
}

inline vf power(vf x, float exponent) {
    if (exponent == 0.0f) return splat(1.0f);  // of NaN as well
    if (exponent == 2.0f) return x * x;
    if (exponent == 3.0f) return x * x * x;
    if (exponent == 0.5f) return square_root(x);
    if (exponent == -0.5f) return 1.0f / square_root(x);
    vf r = {};
    for (int i = 0; i < W; ++i) r[i] = __builtin_powf(x[i], exponent);
    return r;
}

inline vf logarithm(vf x) {
    vf r = {};
    for (int i = 0; i < W; ++i) r[i] = __builtin_logf(x[i]);
    return r;
}

template <int N>
inline void operate(int64_t op, Lines<N>& to, const Lines<N>& a, const Lines<N>& b, float c) {
    switch (op) {
        case 0: return each(to, [&](int i) { return a.v[i] + b.v[i]; });
        case 1: return each(to, [&](int i) { return a.v[i] - b.v[i]; });
        case 2: return each(to, [&](int i) { return a.v[i] * b.v[i]; });
        case 3: return each(to, [&](int i) { return a.v[i] / b.v[i]; });
        case 4: return each(to, [&](int i) { return a.v[i] + c; });
        case 5: return each(to, [&](int i) { return a.v[i] * c; });
        case 6: return each(to, [&](int i) { return c - a.v[i]; });
        case 7: return each(to, [&](int i) { return c / a.v[i]; });
        case 8: return each(to, [&](int i) { return a.v[i] < 0.0f ? splat(0.0f) : a.v[i]; });
        case 9: return each(to, [&](int i) { return gelu(a.v[i]); });
        case 10: return each(to, [&](int i) { return gelu_tanh(a.v[i]); });
        case 11: return each(to, [&](int i) { return silu(a.v[i]); });
        case 12: return each(to, [&](int i) { return sigmoid(a.v[i]); });
        case 13: return each(to, [&](int i) { return tanh_(a.v[i]); });
        case 14: return each(to, [&](int i) { return exponential(a.v[i]); });
        case 15: return each(to, [&](int i) { return power(a.v[i], c); });
        case 16: return each(to, [&](int i) { return -a.v[i]; });
        case 17: return each(to, [&](int i) { return magnitude(a.v[i]); });
        case 18: return each(to, [&](int i) { return a.v[i] < c ? splat(c) : a.v[i]; });
        case 19: return each(to, [&](int i) { return a.v[i] > c ? splat(c) : a.v[i]; });
        case 20: return each(to, [&](int i) { return truth(a.v[i] == c); });
        case 21: return each(to, [&](int i) { return truth(a.v[i] != c); });
        case 22: return each(to, [&](int i) { return truth(a.v[i] > c); });
        case 23: return each(to, [&](int i) { return truth(a.v[i] >= c); });
        case 24: return each(to, [&](int i) { return truth(a.v[i] < c); });
        case 25: return each(to, [&](int i) { return truth(a.v[i] <= c); });
        case 26: return each(to, [&](int i) { return truth(a.v[i] == 0.0f); });                       // not
        case 27: return each(to, [&](int i) { return a.v[i] != 0.0f ? splat(c) : b.v[i]; });          // masked_fill(b, a, c)
        case 28: return each(to, [&](int i) { return a.v[i] > 0.0f ? a.v[i] : a.v[i] * c; });         // leaky relu
        case 29: return each(to, [&](int i) { return a.v[i] > 0.0f ? a.v[i] : a.v[i] * b.v[i]; });    // prelu
        case 30: return each(to, [&](int i) { return (a.v[i] < b.v[i] || b.v[i] != b.v[i]) ? b.v[i] : a.v[i]; });  // maximum
        case 31: return each(to, [&](int i) { return (a.v[i] > b.v[i] || b.v[i] != b.v[i]) ? b.v[i] : a.v[i]; });  // minimum
        case 32: return each(to, [&](int i) { return a.v[i] / c; });
        case 34: return each(to, [&](int i) { return a.v[i] * a.v[i]; });
        case 35: return each(to, [&](int i) { return error_function(a.v[i]); });
        case 36: return each(to, [&](int i) { return logarithm(a.v[i]); });
        case 43: return each(to, [&](int i) { return truth(a.v[i] == b.v[i]); });
        case 44: return each(to, [&](int i) { return truth(a.v[i] != b.v[i]); });
        case 45: return each(to, [&](int i) { return truth(a.v[i] > b.v[i]); });
        case 46: return each(to, [&](int i) { return truth(a.v[i] >= b.v[i]); });
        case 47: return each(to, [&](int i) { return truth(a.v[i] < b.v[i]); });
        case 48: return each(to, [&](int i) { return truth(a.v[i] <= b.v[i]); });
        case 63: to = a; return;
        default: return each(to, [&](int i) { return function_of(op, a.v[i], b.v[i], c); });
    }
}

template <class T, int N>
inline void widen(const Bound& slot, int64_t first, int64_t stride, int64_t count, Lines<N>& to) {
    const T* p = reinterpret_cast<const T*>(slot.base) + first;
    float* lanes = reinterpret_cast<float*>(&to);
    if (stride == 0) return each(to, [&](int) { return splat(float(*p)); });
    if (stride == 1)
        for (int64_t i = 0; i < count; ++i) lanes[i] = float(p[i]);
    else
        for (int64_t i = 0; i < count; ++i) lanes[i] = float(p[i * stride]);
}

// `count` elements of a view's innermost dimension.
template <int N>
inline void read(const Bound& slot, int64_t first, int64_t stride, int64_t count, Lines<N>& to) {
    switch (slot.dtype) {
        case RECFX_I64: return widen<int64_t>(slot, first, stride, count, to);
        case RECFX_I32: return widen<int32_t>(slot, first, stride, count, to);
        case RECFX_U8: return widen<uint8_t>(slot, first, stride, count, to);
        default: break;
    }
    const float* p = reinterpret_cast<const float*>(slot.base) + first;
    if (stride == 0) return each(to, [&](int) { return splat(*p); });
    if (stride != 1) {
        for (int64_t i = 0; i < count; ++i) reinterpret_cast<float*>(&to)[i] = p[i * stride];
        return;
    }
    for (int i = 0; i < N && i * W < count; ++i) to.v[i] = count - i * W >= W ? load(p + i * W) : load_some(p + i * W, count - i * W);
}

template <int N>
inline void write(const Bound& slot, int64_t first, int64_t stride, int64_t count, const Lines<N>& from) {
    const float* lanes = reinterpret_cast<const float*>(&from);
    if (slot.dtype == RECFX_U8) {
        for (int64_t i = 0; i < count; ++i) reinterpret_cast<uint8_t*>(slot.base)[first + i * stride] = lanes[i] != 0.0f;
        return;
    }
    float* p = reinterpret_cast<float*>(slot.base) + first;
    if (stride != 1) {
        for (int64_t i = 0; i < count; ++i) p[i * stride] = lanes[i];
        return;
    }
    for (int i = 0; i < N && i * W < count; ++i) {
        if (count - i * W >= W) store(p + i * W, from.v[i]);
        else store_some(p + i * W, from.v[i], count - i * W);
    }
}

template <int N>
inline void run_program(const RecfxStep& step, Lines<N>* registers, const Lines<N>*& result) {
    for (int64_t o = 0; o < step.ints[0]; ++o) {
        const int64_t* code = step.ints + 1 + 3 * o;
        Lines<N>& target = registers[RECFX_VIEWS + o];
        const Lines<N> &a = registers[code[1]], &b = registers[code[2]];
        if (code[0] == 33) {  // where(a, b, third): the constant is the third's number
            const Lines<N>& other = registers[int64_t(step.floats[o])];
            each(target, [&](int line) { return a.v[line] != 0.0f ? b.v[line] : other.v[line]; });
        } else {
            operate(code[0], target, a, b, float(step.floats[o]));
        }
        result = &target;
    }
}
