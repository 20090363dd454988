// Runs a program of element-wise operations over the elements of a view, a few vectors at a time.
#pragma once
#include "integer.inl"
#include "pointwise.inl"

namespace recfx {
namespace {

template <class R>
inline void elements_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& out = step.out;
    const RecfxView* operands = step.views + ElementsView::operands;
    int64_t views = 0;
    while (views < RECFX_VIEWS && operands[views].slot >= 0) ++views;
    R registers[REGISTERS];
    int64_t element[RECFX_VIEWS];
    auto start = [&](const RecfxView& v, int64_t row) {
        const Bound& slot = context.slots[v.slot];
        return (row - slot.first_row) * slot.row_stride + v.offset;
    };
    begin += range.begin, end += range.begin;
    if (out.size[0] * out.size[1] * out.size[2] * out.size[3] == 1) {  // one number a row: a vector takes several rows
        for (int64_t row = begin; row < end; row += R::lanes) {
            const int64_t count = end - row < R::lanes ? end - row : R::lanes;
            for (int64_t v = 0; v < views; ++v) {
                const Bound& slot = context.slots[operands[v].slot];
                read(slot, start(operands[v], row), slot.row_stride, count, registers[v]);
            }
            const R* result = &registers[0];
            run_program(step, registers, result);
            const Bound& slot = context.slots[out.slot];
            write(slot, start(out, row), slot.row_stride, count, *result);
        }
        return;
    }
    for (int64_t row = begin; row < end; ++row)
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k) {
                    auto inner = [&](const RecfxView& v) { return start(v, row) + i * v.stride[0] + j * v.stride[1] + k * v.stride[2]; };
                    for (int64_t v = 0; v < views; ++v) element[v] = inner(operands[v]);
                    const int64_t to = inner(out), n = out.size[3];
                    for (int64_t l = 0; l < n; l += R::lanes) {
                        const int64_t count = n - l < R::lanes ? n - l : R::lanes;
                        for (int64_t v = 0; v < views; ++v) {
                            const int64_t stride = operands[v].stride[3];
                            read(context.slots[operands[v].slot], element[v] + l * stride, stride, count, registers[v]);
                        }
                        const R* result = &registers[0];
                        run_program(step, registers, result);
                        write(context.slots[out.slot], to + l * out.stride[3], out.stride[3], count, *result);
                    }
                }
}

// W numbers of a row from `i` on, or as many as the row has.
inline vf some_of(const float* p, int64_t stride, int64_t i, int64_t left) {
    if (stride == 0) return splat(*p);
    if (stride == 1) return left >= W ? load(p + i) : load_some(p + i, left);
    alignas(64) float lanes[W] = {};
    for (int64_t j = 0; j < (left < W ? left : W); ++j) lanes[j] = p[(i + j) * stride];
    return load(lanes);
}

// One row of a sum, difference, product or quotient of two operands.
template <int64_t Op>
inline void pair_row(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += W) {
        const int64_t left = n - i;
        const vf x = some_of(a, a_stride, i, left), y = some_of(b, b_stride, i, left);
        const vf r = Op == OP_ADD ? x + y : Op == OP_SUB ? x - y : Op == OP_MUL ? x * y : x / y;
        if (left >= W) store(to + i, r);
        else store_some(to + i, r, left);
    }
}

// The operand that a program of one operation reads from a register.
inline const RecfxView& operand_of(const RecfxStep& step, int32_t side) {
    return step.views[ElementsView::operands + step.ints[ElementsInt::program + side]];
}

// The rows of a view, by the indices of the outer dimensions.
struct Walk {
    const RecfxView& view;
    float* base;  // of the batch row

    float* at(int64_t i, int64_t j, int64_t k) const { return base + i * view.stride[0] + j * view.stride[1] + k * view.stride[2]; }
};

template <int64_t Op>
inline void pair_step(const RecfxStep& step, const Context& context, int64_t begin, int64_t end) {
    const RecfxView &a = operand_of(step, ElementsOperation::left), &b = operand_of(step, ElementsOperation::right), &out = step.out;
    for (int64_t row = begin; row < end; ++row) {
        const Walk from_a{a, at<float>(context, a, row)}, from_b{b, at<float>(context, b, row)}, to{out, at<float>(context, out, row)};
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k)
                    pair_row<Op>(from_a.at(i, j, k), a.stride[3], from_b.at(i, j, k), b.stride[3], out.size[3], to.at(i, j, k));
    }
}

// One function of one row: the operations of pointwise.inl that cost more than reading and writing.
template <int64_t Op>
inline vf function_as(vf v) {
    if constexpr (Op == OP_GELU) return gelu(v);
    else if constexpr (Op == OP_GELU_TANH) return gelu_tanh(v);
    else if constexpr (Op == OP_SILU) return silu(v);
    else if constexpr (Op == OP_SIGMOID) return sigmoid(v);
    else if constexpr (Op == OP_TANH) return tanh_(v);
    else if constexpr (Op == OP_EXPONENTIAL) return exponential(v);
    else return error_function(v);
}

template <int64_t Op>
inline void function_step(const RecfxStep& step, const Context& context, int64_t begin, int64_t end) {
    const RecfxView &from = operand_of(step, ElementsOperation::left), &out = step.out;
    const int64_t n = out.size[3];
    for (int64_t row = begin; row < end; ++row) {
        const Walk source{from, at<float>(context, from, row)}, to{out, at<float>(context, out, row)};
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k) {
                    const float* p = source.at(i, j, k);
                    float* q = to.at(i, j, k);
                    int64_t l = 0;
                    for (; l + W <= n; l += W) store(q + l, function_as<Op>(load(p + l)));
                    if (l < n) store_some(q + l, function_as<Op>(load_some(p + l, n - l)), n - l);
                }
    }
}

// A copy whose innermost elements are adjacent in both views.
inline void copy_step(const RecfxStep& step, const Context& context, int64_t begin, int64_t end) {
    const RecfxView &from = step.views[ElementsView::operands], &out = step.out;
    const int64_t n = out.size[3];
    for (int64_t row = begin; row < end; ++row) {
        const Walk source{from, at<float>(context, from, row)}, to{out, at<float>(context, out, row)};
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k) {
                    const float* p = source.at(i, j, k);
                    float* q = to.at(i, j, k);
                    int64_t l = 0;
                    for (; l + W <= n; l += W) store(q + l, load(p + l));
                    if (l < n) store_some(q + l, load_some(p + l, n - l), n - l);
                }
    }
}

// A transposing copy, in blocks along the innermost dimension, so that a cache line is used completely while it is in the cache.
inline void turning_copy(const RecfxStep& step, const Context& context, int64_t begin, int64_t end) {
    const RecfxView &from = step.views[ElementsView::operands], &out = step.out;
    for (int64_t row = begin; row < end; ++row) {
        const Walk source{from, at<float>(context, from, row)}, to{out, at<float>(context, out, row)};
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t l = 0; l < out.size[3]; l += LANES)
                    for (int64_t k = 0; k < out.size[2]; ++k) {
                        const int64_t last = out.size[3] - l < LANES ? out.size[3] : l + LANES;
                        const float* p = source.at(i, j, k);
                        float* q = to.at(i, j, k);
                        for (int64_t m = l; m < last; ++m) q[m] = p[m * from.stride[3]];
                    }
    }
}

// Runs programs that need no registers: one operation on one or two operands of float32, or a copy. False for any other program.
inline bool simple_step(const RecfxStep& step, const Context& context, const Range& range) {
    auto numbers = [&](const RecfxView& v) { return v.slot >= 0 && context.slots[v.slot].dtype == RECFX_F32; };
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    begin += range.begin, end += range.begin;
    const RecfxView* operands = step.views + ElementsView::operands;
    if (!numbers(step.out) || step.out.stride[3] != 1 || !numbers(operands[0])) return false;
    if (step.ints[ElementsInt::count] == 0) {
        const int64_t* from = operands[0].stride;
        if (from[3] == 1) copy_step(step, context, begin, end);
        else if (from[2] == 1 && from[3] > 1) turning_copy(step, context, begin, end);
        else return false;
        return true;
    }
    const int64_t* operation = step.ints + ElementsInt::program;
    const int64_t op = operation[ElementsOperation::code], left = operation[ElementsOperation::left], right = operation[ElementsOperation::right];
    if (step.ints[ElementsInt::count] != 1 || left >= RECFX_VIEWS || !numbers(operands[left])) return false;
    if (operands[left].stride[3] == 1) {
        switch (op) {
            case OP_GELU: return function_step<OP_GELU>(step, context, begin, end), true;
            case OP_GELU_TANH: return function_step<OP_GELU_TANH>(step, context, begin, end), true;
            case OP_SILU: return function_step<OP_SILU>(step, context, begin, end), true;
            case OP_SIGMOID: return function_step<OP_SIGMOID>(step, context, begin, end), true;
            case OP_TANH: return function_step<OP_TANH>(step, context, begin, end), true;
            case OP_EXPONENTIAL: return function_step<OP_EXPONENTIAL>(step, context, begin, end), true;
            case OP_ERROR_FUNCTION: return function_step<OP_ERROR_FUNCTION>(step, context, begin, end), true;
            default: break;
        }
    }
    if (op > OP_DIV || right >= RECFX_VIEWS || !numbers(operands[right])) return false;
    switch (op) {
        case OP_ADD: pair_step<OP_ADD>(step, context, begin, end); break;
        case OP_SUB: pair_step<OP_SUB>(step, context, begin, end); break;
        case OP_MUL: pair_step<OP_MUL>(step, context, begin, end); break;
        default: pair_step<OP_DIV>(step, context, begin, end);
    }
    return true;
}

void pointwise_step(const RecfxStep& step, const Context& context, const Range& range) {
    if (simple_step(step, context, range)) return;
    const int64_t n = step.out.size[3];
    if (n <= W) elements_step<Lines<1>>(step, context, range);
    else if (n <= 2 * W) elements_step<Lines<2>>(step, context, range);
    else elements_step<Register>(step, context, range);
}
void integer_step(const RecfxStep& step, const Context& context, const Range& range) { elements_step<IntegerRegister>(step, context, range); }

}  // namespace
}  // namespace recfx
