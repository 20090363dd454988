// Picks elements by an index: rows of a constant by ids, positions of a sequence by a number per row.
#pragma once
#include "lookup_ids.inl"

namespace recfx {
namespace {

// out[i, j, k] = source at (i, j, k) moved by index[i, j, k] * stride. Elements of any size are copied as they are.
// Source and index are read in the runs of the output's elements.
template <class T>
inline void take_elements(const RecfxStep& step, const Context& context, const Range& range) {
    int64_t begin, end;
    split(range.end - range.begin, range.part, range.parts, begin, end);
    const RecfxView &source = step.views[TakeView::source], &index = step.views[TakeView::index], &out = step.out;
    const Bound& ids = context.slots[index.slot];
    const int64_t by = step.ints[TakeInt::stride], limit = step.ints[TakeInt::limit];
    for (int64_t row = range.begin + begin; row < range.begin + end; ++row) {
        const T* from = at<const T>(context, source, row);
        T* to = at<T>(context, out, row);
        const int64_t first = (row - ids.first_row) * ids.row_stride + index.offset;
        for (int64_t i = 0; i < out.size[0]; ++i)
            for (int64_t j = 0; j < out.size[1]; ++j)
                for (int64_t k = 0; k < out.size[2]; ++k) {
                    const int64_t given = id_at(ids, first + i * index.stride[0] + j * index.stride[1] + k * index.stride[2]);
                    const int64_t position = given < 0 && step.ints[TakeInt::wraps] ? given + limit : given;
                    if (uint64_t(position) >= uint64_t(limit)) return context.errors->bad_id(context.step, 0, row, given, limit);
                    const T* p = from + i * source.stride[0] + j * source.stride[1] + k * source.stride[2] + position * by;
                    T* q = to + i * out.stride[0] + j * out.stride[1] + k * out.stride[2];
                    const int64_t n = out.size[3];
                    if (source.stride[3] == 1 && out.stride[3] == 1) __builtin_memcpy(q, p, size_t(n) * sizeof(T));
                    else
                        for (int64_t l = 0; l < n; ++l) q[l * out.stride[3]] = p[l * source.stride[3]];
                }
    }
}

void take_step(const RecfxStep& step, const Context& context, const Range& range) {
    switch (size_of(context.slots[step.out.slot].dtype)) {
        case 8: return take_elements<int64_t>(step, context, range);
        case 1: return take_elements<uint8_t>(step, context, range);
        case 2: return take_elements<uint16_t>(step, context, range);
        default: return take_elements<uint32_t>(step, context, range);
    }
}

}  // namespace
}  // namespace recfx
