// A layer of a compressed interaction network: a product whose rows are the products of maps and fields at one column. They are computed for a few
// rows at a time, so that the outer product is never stored whole.
#pragma once
#include "tiles.inl"

namespace recfx {
namespace {

// The products of each of `maps` maps with each of `fields` fields, or with the triangle only with the fields from the map's own on.
struct OuterProduct {
    int64_t maps, fields;
    bool triangle;

    int64_t start(int64_t map) const { return triangle ? map * fields - map * (map - 1) / 2 : map * fields; }

    // The products [from, from + count) of the maps x and fields f at one column. Writes up to W - 1 numbers past the end, and reads them past the
    // end of f.
    void write(const float* x, const float* f, int64_t from, int64_t count, float* to) const {
        int64_t map = 0;
        while (map + 1 < maps && start(map + 1) <= from) ++map;
        int64_t field = from - start(map) + (triangle ? map : 0);
        for (int64_t done = 0; done < count; ++map) {
            const int64_t left = count - done, here = fields - field < left ? fields - field : left;
            const vf factor = splat(x[map]);
            for (int64_t i = 0; i < here; i += W) store(to + done + i, factor * load(f + field + i));
            done += here;
            field = triangle ? map + 1 : 0;
        }
    }
};

// The range of all products of two numbers of these ranges. The extremes are products of extremes, rounded alike.
inline RowRange range_of_products(const RowRange& a, const RowRange& b) {
    const float ends[4] = {a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high};
    RowRange range{ends[0], ends[0], a.finite && b.finite};
    for (const float end : ends) {
        range.low = end < range.low ? end : range.low;
        range.high = end > range.high ? end : range.high;
        range.finite = range.finite && __builtin_fabsf(end) <= __FLT_MAX__;
    }
    return range;
}

// The rows of a layer, one for each column of each batch row, as a `Source`.
template <class D, bool Integers>
struct OuterSource {
    static constexpr int64_t DEEP_ROWS = 0;
    const Context& context;
    const RecfxStep& step;
    OuterProduct outer;
    int64_t first_batch, columns, products;
    float input_scale;
    float *x = nullptr, *f = nullptr, *z = nullptr;  // maps and fields of the chunk's rows; products of one row, with integers of every row
    int64_t z_row = 0;

    // The numbers of a row, with the W that a store may write past its end.
    static int64_t padded(int64_t count) { return (count + W + 15) / 16 * 16; }

    size_t bytes(int64_t held, int64_t count) const {
        return size_t(held * (padded(outer.maps) + padded(outer.fields)) + (Integers ? held : 1) * padded(count)) * 4;
    }

    void hold(char* memory, int64_t held, int64_t count) {
        x = reinterpret_cast<float*>(memory);
        f = x + held * padded(outer.maps);
        z = f + held * padded(outer.fields);
        z_row = Integers ? padded(count) : 0;
    }

    // Reads a column of vectors [n, columns].
    static void read_column(const float* from, const RecfxView& view, int64_t n, float* to) {
        if (view.stride[0] == 1) __builtin_memcpy(to, from, size_t(n) * 4);
        else
            for (int64_t i = 0; i < n; ++i) to[i] = from[i * view.stride[0]];
        for (int64_t i = n; i < padded(n); ++i) to[i] = 0;
    }

    void read_rows(int64_t first, int64_t count, const Chunk& chunk) const {
        const RecfxView &maps = step.views[CinView::maps], &fields = step.views[CinView::vectors];
        for (int64_t i = 0; i < count; ++i) {
            const int64_t batch = first_batch + (first + i) / columns, column = (first + i) % columns;
            chunk.rows[i] = {};
            chunk.rows[i].out = at<float>(context, step.out, batch) + column * step.out.stride[0];
            read_column(at<const float>(context, maps, batch) + column * maps.stride[1], maps, outer.maps, x + i * padded(outer.maps));
            read_column(at<const float>(context, fields, batch) + column * fields.stride[1], fields, outer.fields, f + i * padded(outer.fields));
        }
    }

    void fill(int64_t first, int64_t count, int64_t slab, int64_t units, const Chunk& chunk) const {
        if (slab == 0) read_rows(first, count, chunk);
        const int64_t from = slab * D::depth;
        const int64_t k = products - from < units * D::depth ? products - from : units * D::depth;
        for (int64_t i = 0; i < count; ++i) {
            const float *maps = x + i * padded(outer.maps), *fields = f + i * padded(outer.fields);
            uint32_t* to = chunk.units + i * chunk.row_units;
            if constexpr (__is_same(D, DotF32)) {
                outer.write(maps, fields, from, k, reinterpret_cast<float*>(to));
            } else if constexpr (Integers) {
                EpilogueRow& r = chunk.rows[i];
                const RowRange range = range_of_products(range_of(maps, outer.maps), range_of(fields, outer.fields));
                float* row = z + (range.finite ? 0 : i * z_row);
                outer.write(maps, fields, from, k, row);
                if (!quantize_row_of<D>(range, row, k, units, input_scale, to, r.scale, r.zero)) r.not_finite = row;
            } else {
                outer.write(maps, fields, from, k, z);
                row_units<D>(z, k, units, to);
            }
        }
    }
};

void cin_step(const RecfxStep& step, const Context& context, const Range& range) {
#if RECFX_HAS_AMX
    if (step.ints[CinInt::format] == WEIGHT_F32) return level_avx512_bf16()->steps.of_kind[RECFX_CIN](step, context, range);
#endif
    const RecfxView& x = step.views[CinView::maps];
    const int64_t columns = x.size[1], k = step.ints[CinInt::inputs];
    const PackedProduct product{(range.end - range.begin) * columns, step.ints[CinInt::outputs], k, static_cast<const uint32_t*>(step.pointers[CinPointer::weight])};
    const OuterProduct outer{x.size[0], step.views[CinView::vectors].size[0], step.ints[CinInt::triangle] != 0};
    const Epilogue e = epilogue_of<CinInt, CinFloat, CinPointer>(step);
    with_format(step.ints[CinInt::format], [&](auto dot, auto integers) {
        OuterSource<decltype(dot), integers.value> source{context, step, outer, range.begin, columns, k, float(step.floats[CinFloat::input_scale])};
        multiply_rows<decltype(dot), integers.value>(product, e, source, context, range);
    });
}

}  // namespace
}  // namespace recfx
