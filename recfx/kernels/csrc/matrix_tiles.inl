// Products by the matrix instructions of x86 (AMX): a tile holds 16 rows of 16 units, and one instruction adds the product of two tiles to a
// third.
//
// Integers are summed exactly, so the result is that of every other tile. Of bfloat16, an instruction sums the even and the odd numbers of 16
// units apart, and adds both sums to the accumulator; all numbers of rows are multiplied in this way, since the others sum in another order.
#pragma once
#include "epilogue.inl"

#if RECFX_HAS_AMX
namespace recfx {
namespace {

constexpr int64_t TILE = 16;  // rows of a tile, and units or sums in one of its rows
constexpr int64_t BLOCK = 2 * TILE;  // rows that share one read of the weights

// The memory operand of LDTILECFG.
struct alignas(64) TileSizes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// All instructions clobber memory: the compiler does not know what tiles read and write.
template <int T> inline void clear_tile() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(T) : "memory"); }
template <int T> inline void load_tile(const void* from, int64_t stride_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(T) : "memory");
}
template <int T> inline void store_tile(void* to, int64_t stride_bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(T) : "memory");
}
// Tile C += tile A (input) times tile B (weights). Inputs are unsigned bytes, weights signed ones, as DotI8 has them with VNNI.
template <class D, int C, int A, int B> inline void multiply_tiles() {
    if constexpr (__is_same(D, DotI8)) __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B) : "memory");
    else __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B) : "memory");
}

// Tiles 0..3 hold sums, 4 and 5 inputs, 6 and 7 weights. Between a construction and a destruction, a thread may use them.
struct Tiles {
    explicit Tiles(int64_t rows) {
        TileSizes sizes;
        for (int t = 0; t < 8; ++t) {
            sizes.row_bytes[t] = TILE * 4;
            sizes.rows[t] = uint8_t(t < 6 && rows < TILE ? rows : TILE);
        }
        __asm__ volatile("ldtilecfg %0" ::"m"(sizes) : "memory");
    }
    ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// The last units of one or two panels, followed by zeros up to a whole tile.
struct LastUnits {
    alignas(64) uint32_t units[2][TILE * PANEL];

    LastUnits(const Operands& o, int64_t panels) {
        const int64_t whole = o.units / TILE * TILE, left = (o.units - whole) * PANEL;
        if (left == 0) return;
        for (int64_t p = 0; p < panels; ++p) {
            __builtin_memcpy(units[p], o.b + p * o.panel_units + whole * PANEL, size_t(left) * 4);
            __builtin_memset(units[p] + left, 0, sizeof units[p] - size_t(left) * 4);
        }
    }
};

// R tiles of rows by V of columns, R V <= 4: tile V of the second panel is the third column.
template <class D, int R, int V>
struct MatrixBlock {
    static constexpr int64_t PANEL_BYTES = PANEL * 4;

    template <int T> static void clear() {
        if constexpr (T < R * V) clear_tile<T>(), clear<T + 1>();
    }

    template <int T> static void load_sums(const float* from, int64_t row) {
        if constexpr (T < R * V) load_tile<T>(from + T / V * TILE * row + T % V * TILE, row * 4), load_sums<T + 1>(from, row);
    }

    template <int T, class Sum> static void store_sums(Sum* to, int64_t row) {
        if constexpr (T < R * V) store_tile<T>(to + T / V * TILE * row + T % V * TILE, row * 4), store_sums<T + 1>(to, row);
    }

    template <int C> static void add_column(const uint32_t* b, int64_t panel_units) {
        if constexpr (C < V) {
            load_tile<6 + C % 2>(b + C / 2 * panel_units + C % 2 * TILE, PANEL_BYTES);
            multiply_tiles<D, C, 4, 6 + C % 2>();
            if constexpr (R == 2) multiply_tiles<D, V + C, 5, 6 + C % 2>();
            add_column<C + 1>(b, panel_units);
        }
    }

    static void add(const uint32_t* a, int64_t row_units, const uint32_t* b, int64_t panel_units) {
        load_tile<4>(a, row_units * 4);
        if constexpr (R == 2) load_tile<5>(a + TILE * row_units, row_units * 4);
        add_column<0>(b, panel_units);
    }

    // Rows [0, rows) of the operands with the panel, or with it and the next.
    static void run(const Operands& o, const LastUnits& last, const Epilogue& e, int64_t chunk_row, int64_t rows, int64_t panel) {
        constexpr bool floats = !__is_same(typename D::V, vi);
        if (floats && e.resume) load_sums<0>(e.partial_at(chunk_row, panel * PANEL), e.partial_row());
        else clear<0>();
        const int64_t whole = o.units / TILE * TILE;
        for (int64_t u = 0; u < whole; u += TILE) add(o.a + u, o.row_units, o.b + u * PANEL, o.panel_units);
        if (whole < o.units) add(o.a + whole, o.row_units, last.units[0], TILE * PANEL);
        if (floats && e.keep) return store_sums<0>(e.partial_at(chunk_row, panel * PANEL), e.partial_row());
        alignas(64) Lane sums[R * TILE * V * TILE];
        store_sums<0>(sums, V * TILE);
        write(sums, e, chunk_row, rows, panel);
    }

    using Lane = __typeof__(typename D::V{}[0] + 0);

    static void write(const Lane* sums, const Epilogue& e, int64_t chunk_row, int64_t rows, int64_t panel) {
        const EpilogueRow* to = e.rows + chunk_row;
        const bool plain = e.plain && panel * PANEL + V * TILE <= e.n, relu = e.activation.kind == ACT_RELU;
        for (int64_t r = 0; r < rows; ++r)
            for (int v = 0; v < V; ++v) {
                const auto sum = load_as<typename D::V>(sums + (r * V + v) * TILE);
                if (plain) e.write_plain(sum, to[r], panel * PANEL + v * TILE, relu);
                else e.write(sum, to[r], panel * PANEL + v * TILE);
            }
    }
};

// Sets the units between the end of each row and the end of its last tile to zero: weights there are zero, but zero times NaN is not.
inline void clear_ends(uint32_t* a, int64_t count, int64_t row_units, int64_t units) {
    const int64_t left = (TILE - units % TILE) % TILE;
    for (int64_t i = 0; left && i < count; ++i) store_some(reinterpret_cast<float*>(a + i * row_units + units), vf{}, left);
}

// The product of up to a tile of rows goes through two panels at once, so that four sums hide each other's latency.
template <class D>
inline void multiply_one_tile(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    const int64_t groups = (p1 - p0 + 1) / 2;
    for (int64_t i = 0; i < groups; ++i) {
        const int64_t panel = p0 + (backward ? groups - 1 - i : i) * 2, panels = p1 - panel < 2 ? 1 : 2;
        const Operands here = o.from(0, panel);
        const auto run = panels == 2 ? MatrixBlock<D, 1, 4>::run : half(e, panel) ? MatrixBlock<D, 1, 1>::run : MatrixBlock<D, 1, 2>::run;
        run(here, LastUnits(here, panels), e, 0, count, panel);
    }
}

// The product of a chunk's rows with panels [p0, p1).
template <class D>
inline void multiply_by_tiles(const Operands& o, int64_t count, const Epilogue& e, int64_t p0, int64_t p1, bool backward) {
    clear_ends(const_cast<uint32_t*>(o.a), count, o.row_units, o.units);
    const Tiles tiles(count);
    if (count <= TILE) return multiply_one_tile<D>(o, count, e, p0, p1, backward);
    for (int64_t panel = p0; panel < p1; ++panel) {
        const LastUnits last(o.from(0, panel), 1);
        const bool single = half(e, panel);
        for (int64_t row = 0; row < count; row += BLOCK) {
            const int64_t rows = count - row < BLOCK ? count - row : BLOCK;
            const auto run = rows > TILE ? single ? MatrixBlock<D, 2, 1>::run : MatrixBlock<D, 2, 2>::run
                                         : single ? MatrixBlock<D, 1, 1>::run : MatrixBlock<D, 1, 2>::run;
            run(o.from(row, panel), last, e, row, rows, panel);
        }
    }
}

}  // namespace
}  // namespace recfx
#endif
