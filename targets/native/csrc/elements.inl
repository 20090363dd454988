// Runs a program of element-wise operations over the elements of a view, a few vectors at a time.
#pragma once

template <class R>
inline void elements_step(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView& out = step.out;
    int64_t views = 0;
    while (views < RECFX_VIEWS && step.views[views].slot >= 0) ++views;
    R registers[REGISTERS];
    int64_t element[RECFX_VIEWS];
    auto start = [&](const RecfxView& v, int64_t row) {
        const Bound& slot = context.slots[v.slot];
        return (row - slot.first_row) * slot.row_stride + v.offset;
    };
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row)
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k) {
                    auto inner = [&](const RecfxView& v) { return start(v, row) + i * v.stride[0] + j * v.stride[1] + k * v.stride[2]; };
                    for (int64_t v = 0; v < views; ++v) element[v] = inner(step.views[v]);
                    const int64_t to = inner(out), n = out.size[3];
                    for (int64_t l = 0; l < n; l += LANES) {
                        const int64_t count = n - l < LANES ? n - l : LANES;
                        for (int64_t v = 0; v < views; ++v) {
                            const int64_t stride = step.views[v].stride[3];
                            read(context.slots[step.views[v].slot], element[v] + l * stride, stride, count, registers[v]);
                        }
                        const R* result = &registers[0];
                        run_program(step, registers, result);
                        write(context.slots[out.slot], to + l * out.stride[3], out.stride[3], count, *result);
                    }
                }
}

void pointwise_step(const RecfxStep& step, const Context& context, const Range& range) { elements_step<Register>(step, context, range); }
void integer_step(const RecfxStep& step, const Context& context, const Range& range) { elements_step<IntegerRegister>(step, context, range); }
