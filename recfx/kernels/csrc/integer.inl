// Arithmetic on ids and masks in 64-bit integers, as models compute ids before lookups.
#pragma once
#include "kernels.h"
#include "pointwise.inl"

namespace recfx {
namespace {

// The program format is that of the floating-point programs; constants are whole numbers.
struct IntegerRegister {
    static constexpr int64_t lanes = LANES;
    int64_t v[LANES];
};

template <class F>
inline void each(IntegerRegister& to, F f) {
    for (int64_t i = 0; i < LANES; ++i) to.v[i] = f(i);
}

// The remainder with the sign of the divisor, which is not 0. The processor's division of -2^63 by -1 overflows and traps.
inline int64_t floor_remainder(int64_t a, int64_t c) {
    if (c == -1) return 0;
    const int64_t r = a % c;
    return r && (r < 0) != (c < 0) ? r + c : r;
}

// The lowest number divided by -1 wraps around, as in torch; the instruction of the processor would trap.
inline int64_t floor_quotient(int64_t a, int64_t c) {
    if (c == -1) return int64_t(-uint64_t(a));
    return a / c - int64_t(a % c != 0 && (a < 0) != (c < 0));
}

inline void operate(int64_t op, IntegerRegister& to, const IntegerRegister& a, const IntegerRegister& b, int64_t c) {
    switch (op) {
        case OP_ADD: return each(to, [&](int64_t i) { return int64_t(uint64_t(a.v[i]) + uint64_t(b.v[i])); });
        case OP_SUB: return each(to, [&](int64_t i) { return int64_t(uint64_t(a.v[i]) - uint64_t(b.v[i])); });
        case OP_MUL: return each(to, [&](int64_t i) { return int64_t(uint64_t(a.v[i]) * uint64_t(b.v[i])); });
        case OP_ADD_C: return each(to, [&](int64_t i) { return int64_t(uint64_t(a.v[i]) + uint64_t(c)); });
        case OP_MUL_C: return each(to, [&](int64_t i) { return int64_t(uint64_t(a.v[i]) * uint64_t(c)); });
        case OP_C_MINUS: return each(to, [&](int64_t i) { return int64_t(uint64_t(c) - uint64_t(a.v[i])); });
        case OP_CLAMP_LOW: return each(to, [&](int64_t i) { return a.v[i] < c ? c : a.v[i]; });
        case OP_CLAMP_HIGH: return each(to, [&](int64_t i) { return a.v[i] > c ? c : a.v[i]; });
        case OP_EQUAL_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] == c); });
        case OP_NOT_EQUAL_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] != c); });
        case OP_GREATER_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] > c); });
        case OP_AT_LEAST_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] >= c); });
        case OP_LESS_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] < c); });
        case OP_AT_MOST_C: return each(to, [&](int64_t i) { return int64_t(a.v[i] <= c); });
        case OP_NOT: return each(to, [&](int64_t i) { return int64_t(a.v[i] == 0); });
        case OP_MASKED_FILL: return each(to, [&](int64_t i) { return a.v[i] ? c : b.v[i]; });  // masked_fill(b, a, c)
        case OP_MAXIMUM: return each(to, [&](int64_t i) { return a.v[i] < b.v[i] ? b.v[i] : a.v[i]; });
        case OP_MINIMUM: return each(to, [&](int64_t i) { return a.v[i] > b.v[i] ? b.v[i] : a.v[i]; });
        case OP_AND: return each(to, [&](int64_t i) { return a.v[i] & b.v[i]; });
        case OP_OR: return each(to, [&](int64_t i) { return a.v[i] | b.v[i]; });
        case OP_FLOOR_REMAINDER_C: return each(to, [&](int64_t i) { return floor_remainder(a.v[i], c); });
        case OP_EQUAL: return each(to, [&](int64_t i) { return int64_t(a.v[i] == b.v[i]); });
        case OP_NOT_EQUAL: return each(to, [&](int64_t i) { return int64_t(a.v[i] != b.v[i]); });
        case OP_GREATER: return each(to, [&](int64_t i) { return int64_t(a.v[i] > b.v[i]); });
        case OP_AT_LEAST: return each(to, [&](int64_t i) { return int64_t(a.v[i] >= b.v[i]); });
        case OP_LESS: return each(to, [&](int64_t i) { return int64_t(a.v[i] < b.v[i]); });
        case OP_AT_MOST: return each(to, [&](int64_t i) { return int64_t(a.v[i] <= b.v[i]); });
        case OP_FLOAT_TO_INT32: return each(to, [&](int64_t i) { return a.v[i] >= INT32_MIN && a.v[i] <= INT32_MAX ? a.v[i] : INT32_MIN; });  // float to int32
        case OP_ABSOLUTE: return each(to, [&](int64_t i) { return a.v[i] < 0 ? int64_t(-uint64_t(a.v[i])) : a.v[i]; });
        case OP_WHOLE_SIGN: return each(to, [&](int64_t i) { return int64_t(a.v[i] > 0) - int64_t(a.v[i] < 0); });
        case OP_XOR: return each(to, [&](int64_t i) { return a.v[i] ^ b.v[i]; });
        case OP_FLOOR_QUOTIENT_C: return each(to, [&](int64_t i) { return floor_quotient(a.v[i], c); });
        case OP_QUOTIENT_C: return each(to, [&](int64_t i) { return c == -1 ? int64_t(-uint64_t(a.v[i])) : a.v[i] / c; });
        case OP_CONSTANT: return each(to, [&](int64_t) { return c; });
        default: to = a;
    }
}

// Truncates. Numbers outside int64 become the lowest integer, as x86 converts them.
inline int64_t truncated(float x) { return x >= -0x1p63f && x < 0x1p63f ? int64_t(x) : INT64_MIN; }

template <class T>
inline void widen_integers(const char* base, int64_t first, int64_t stride, int64_t count, int64_t* to) {
    const T* p = reinterpret_cast<const T*>(base) + first;
    for (int64_t i = 0; i < count; ++i) {
        if constexpr (__is_same(T, float)) to[i] = truncated(p[i * stride]);
        else to[i] = int64_t(p[i * stride]);
    }
}

inline void read(const Bound& slot, int64_t first, int64_t stride, int64_t count, IntegerRegister& to) {
    switch (slot.dtype) {
        case RECFX_F32: return widen_integers<float>(slot.base, first, stride, count, to.v);
        case RECFX_I32: return widen_integers<int32_t>(slot.base, first, stride, count, to.v);
        case RECFX_U8: return widen_integers<uint8_t>(slot.base, first, stride, count, to.v);
        default: return widen_integers<int64_t>(slot.base, first, stride, count, to.v);
    }
}

inline void write(const Bound& slot, int64_t first, int64_t stride, int64_t count, const IntegerRegister& from) {
    for (int64_t i = 0; i < count; ++i) {
        const int64_t element = first + i * stride;
        switch (slot.dtype) {
            case RECFX_I32: reinterpret_cast<int32_t*>(slot.base)[element] = int32_t(from.v[i]); break;
            case RECFX_U8: reinterpret_cast<uint8_t*>(slot.base)[element] = from.v[i] != 0; break;
            default: reinterpret_cast<int64_t*>(slot.base)[element] = from.v[i];
        }
    }
}

inline void run_program(const RecfxStep& step, IntegerRegister* registers, const IntegerRegister*& result) {
    const int64_t* operation = step.ints + ElementsInt::program;
    const double* constants = step.floats + ElementsFloat::constants;
    for (int64_t o = 0; o < step.ints[ElementsInt::count]; ++o, operation += ElementsOperation::fields) {
        IntegerRegister& target = registers[RECFX_VIEWS + o];
        const IntegerRegister &a = registers[operation[ElementsOperation::left]], &b = registers[operation[ElementsOperation::right]];
        if (operation[ElementsOperation::code] == OP_WHERE) {
            const IntegerRegister& other = registers[operation[ElementsOperation::other]];
            each(target, [&](int64_t i) { return a.v[i] ? b.v[i] : other.v[i]; });
        } else {
            operate(operation[ElementsOperation::code], target, a, b, int64_t(constants[o]));
        }
        result = &target;
    }
}

// Sums of integers and masks over one axis. input [outer, r, inner]; out [outer, inner], or of running sums [outer, r, inner].
void integer_sum_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &x = step.views[IntegerSumView::input], &out = step.out;
    const bool running = step.ints[IntegerSumInt::running] != 0;
    const Bound& slot = context.slots[x.slot];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const int64_t first = (row - slot.first_row) * slot.row_stride + x.offset;
        int64_t* to = at<int64_t>(context, out, row);
        for (int64_t o = 0; o < x.size[0]; ++o)
            for (int64_t c = 0; c < x.size[2]; ++c) {
                uint64_t total = 0;  // wraps around, as in torch
                for (int64_t i = 0; i < x.size[1]; ++i) {
                    int64_t value;
                    IntegerRegister one;
                    read(slot, first + o * x.stride[0] + i * x.stride[1] + c * x.stride[2], 1, 1, one);
                    value = one.v[0];
                    total += uint64_t(value);
                    if (running) to[o * out.stride[0] + i * out.stride[1] + c * out.stride[2]] = int64_t(total);
                }
                if (!running) to[o * out.stride[0] + c * out.stride[1]] = int64_t(total);
            }
    }
}

}  // namespace
}  // namespace recfx
