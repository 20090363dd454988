// Element-wise arithmetic: a short program of operations over registers of a few vectors, so that a chain of them reads and writes memory once.
// Operands are float32, or integers and booleans converted to float32.
#pragma once
#include "elementary.inl"
#include "gelu.inl"
#include "kernels.h"

namespace recfx {
namespace {

constexpr int64_t LANES = 64, OPERATIONS = (RECFX_INTS - ElementsInt::program) / ElementsOperation::fields, REGISTERS = RECFX_VIEWS + OPERATIONS;
static_assert(ElementsFloat::constants + OPERATIONS <= RECFX_FLOATS, "constants of operations");

// N vectors of numbers. Short rows use few, so that little is computed beyond their ends.
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
        case OP_ADD: return each(to, [&](int i) { return a.v[i] + b.v[i]; });
        case OP_SUB: return each(to, [&](int i) { return a.v[i] - b.v[i]; });
        case OP_MUL: return each(to, [&](int i) { return a.v[i] * b.v[i]; });
        case OP_DIV: return each(to, [&](int i) { return a.v[i] / b.v[i]; });
        case OP_ADD_C: return each(to, [&](int i) { return a.v[i] + c; });
        case OP_MUL_C: return each(to, [&](int i) { return a.v[i] * c; });
        case OP_C_MINUS: return each(to, [&](int i) { return c - a.v[i]; });
        case OP_C_OVER: return each(to, [&](int i) { return c / a.v[i]; });
        case OP_RELU: return each(to, [&](int i) { return a.v[i] < 0.0f ? splat(0.0f) : a.v[i]; });
        case OP_GELU: return each(to, [&](int i) { return gelu(a.v[i]); });
        case OP_GELU_TANH: return each(to, [&](int i) { return gelu_tanh(a.v[i]); });
        case OP_SILU: return each(to, [&](int i) { return silu(a.v[i]); });
        case OP_SIGMOID: return each(to, [&](int i) { return sigmoid(a.v[i]); });
        case OP_TANH: return each(to, [&](int i) { return tanh_(a.v[i]); });
        case OP_EXPONENTIAL: return each(to, [&](int i) { return exponential(a.v[i]); });
        case OP_POWER_C: return each(to, [&](int i) { return power(a.v[i], c); });
        case OP_NEGATE: return each(to, [&](int i) { return -a.v[i]; });
        case OP_MAGNITUDE: return each(to, [&](int i) { return magnitude(a.v[i]); });
        case OP_CLAMP_LOW: return each(to, [&](int i) { return a.v[i] < c ? splat(c) : a.v[i]; });
        case OP_CLAMP_HIGH: return each(to, [&](int i) { return a.v[i] > c ? splat(c) : a.v[i]; });
        case OP_EQUAL_C: return each(to, [&](int i) { return truth(a.v[i] == c); });
        case OP_NOT_EQUAL_C: return each(to, [&](int i) { return truth(a.v[i] != c); });
        case OP_GREATER_C: return each(to, [&](int i) { return truth(a.v[i] > c); });
        case OP_AT_LEAST_C: return each(to, [&](int i) { return truth(a.v[i] >= c); });
        case OP_LESS_C: return each(to, [&](int i) { return truth(a.v[i] < c); });
        case OP_AT_MOST_C: return each(to, [&](int i) { return truth(a.v[i] <= c); });
        case OP_NOT: return each(to, [&](int i) { return truth(a.v[i] == 0.0f); });
        case OP_MASKED_FILL: return each(to, [&](int i) { return a.v[i] != 0.0f ? splat(c) : b.v[i]; });          // masked_fill(b, a, c)
        case OP_LEAKY_RELU: return each(to, [&](int i) { return a.v[i] > 0.0f ? a.v[i] : a.v[i] * c; });
        case OP_PRELU: return each(to, [&](int i) { return a.v[i] > 0.0f ? a.v[i] : a.v[i] * b.v[i]; });
        case OP_MAXIMUM: return each(to, [&](int i) { return (a.v[i] < b.v[i] || b.v[i] != b.v[i]) ? b.v[i] : a.v[i]; });
        case OP_MINIMUM: return each(to, [&](int i) { return (a.v[i] > b.v[i] || b.v[i] != b.v[i]) ? b.v[i] : a.v[i]; });
        case OP_DIV_C: return each(to, [&](int i) { return a.v[i] / c; });
        case OP_SQUARE: return each(to, [&](int i) { return a.v[i] * a.v[i]; });
        case OP_ERROR_FUNCTION: return each(to, [&](int i) { return error_function(a.v[i]); });
        case OP_LOGARITHM: return each(to, [&](int i) { return logarithm(a.v[i]); });
        case OP_EQUAL: return each(to, [&](int i) { return truth(a.v[i] == b.v[i]); });
        case OP_NOT_EQUAL: return each(to, [&](int i) { return truth(a.v[i] != b.v[i]); });
        case OP_GREATER: return each(to, [&](int i) { return truth(a.v[i] > b.v[i]); });
        case OP_AT_LEAST: return each(to, [&](int i) { return truth(a.v[i] >= b.v[i]); });
        case OP_LESS: return each(to, [&](int i) { return truth(a.v[i] < b.v[i]); });
        case OP_AT_MOST: return each(to, [&](int i) { return truth(a.v[i] <= b.v[i]); });
        case OP_COPY: to = a; return;
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
    const int64_t* operation = step.ints + ElementsInt::program;
    const double* constants = step.floats + ElementsFloat::constants;
    for (int64_t o = 0; o < step.ints[ElementsInt::count]; ++o, operation += ElementsOperation::fields) {
        Lines<N>& target = registers[RECFX_VIEWS + o];
        const Lines<N> &a = registers[operation[ElementsOperation::left]], &b = registers[operation[ElementsOperation::right]];
        if (operation[ElementsOperation::code] == OP_WHERE) {
            const Lines<N>& other = registers[operation[ElementsOperation::other]];
            each(target, [&](int line) { return a.v[line] != 0.0f ? b.v[line] : other.v[line]; });
        } else {
            operate(operation[ElementsOperation::code], target, a, b, float(constants[o]));
        }
        result = &target;
    }
}

}  // namespace
}  // namespace recfx
