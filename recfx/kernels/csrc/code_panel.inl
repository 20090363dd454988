// A block of a table of codes, unpacked and transposed so that each lane holds a row: for many queries over the same rows.
#pragma once
#include "code_query.inl"
#include "simd.inl"

namespace recfx {
namespace {

constexpr int64_t CODE_PANEL = 128;  // rows of a block
constexpr int64_t PANEL_ROWS = 4;    // least number of queries for which unpacking is faster

// One 32-bit unit of codes in each lane, times a unit of the query.
#if RECFX_HAS_VNNI
struct CodeUnit {
    static constexpr int64_t depth = 4;
    static vi step(vi acc, vi codes, uint32_t z) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, _mm512_set1_epi32(int32_t(z))); }
};
#elif RECFX_HAS_MADD512
struct CodeUnit {
    static constexpr int64_t depth = 2;
    static vi step(vi acc, vi codes, uint32_t z) { return acc + (vi)_mm512_madd_epi16((__m512i)codes, _mm512_set1_epi32(int32_t(z))); }
};
#elif RECFX_HAS_MADD256
struct CodeUnit {
    static constexpr int64_t depth = 2;
    static vi step(vi acc, vi codes, uint32_t z) { return acc + (vi)_mm256_madd_epi16((__m256i)codes, _mm256_set1_epi32(int32_t(z))); }
};
#elif RECFX_HAS_SDOT
struct CodeUnit {
    static constexpr int64_t depth = 4;
    // Both factors are signed: the codes are reduced by 128, and a product that is the same for all rows is added.
    static vi step(vi acc, vi codes, uint32_t z) {
        const int8x16_t query = (int8x16_t)splat(int32_t(z)), least = vdupq_n_s8(-128);
        const vi back = (vi)vdotq_s32(vdupq_n_s32(0), least, query);
        return (vi)vdotq_s32((int32x4_t)(acc - back), veorq_s8((int8x16_t)codes, least), query);
    }
};
#else
struct CodeUnit {
    static constexpr int64_t depth = 1;
    static vi step(vi acc, vi codes, uint32_t z) { return acc + codes * int32_t(z); }
};
#endif

// `depth` neighbouring columns as one unit.
template <class T>
inline uint32_t code_unit(const T* columns) {
    if constexpr (CodeUnit::depth == 4) {
        uint32_t unit;
        __builtin_memcpy(&unit, columns, 4);
        return unit;
    } else if constexpr (CodeUnit::depth == 2) {
        return uint32_t(uint16_t(int16_t(columns[0]))) | uint32_t(uint16_t(int16_t(columns[1]))) << 16;
    } else {
        return uint32_t(int32_t(columns[0]));
    }
}

inline void count_panel_plain(const uint64_t* words, int64_t count, const char* plane, int64_t positive, int32_t* dots) {
    for (int64_t i = 0; i < CODE_PANEL; ++i) {
        int64_t apart = 0;
        for (int64_t w = 0; w < count; ++w) apart += __builtin_popcountll(words[w * CODE_PANEL + i] ^ word_at(plane, w));
        dots[i] = int32_t(positive - apart);
    }
}

#if RECFX_LANES == 16
__attribute__((target("avx512vpopcntdq"))) inline void count_panel_wide(const uint64_t* words, int64_t count, const char* plane, int64_t positive,
                                                                         int32_t* dots) {
    for (int64_t i = 0; i < CODE_PANEL; i += 8) {
        __m512i apart = _mm512_setzero_si512();
        for (int64_t w = 0; w < count; ++w) {
            const __m512i differing = _mm512_xor_si512(_mm512_loadu_si512(words + w * CODE_PANEL + i), _mm512_set1_epi64(int64_t(word_at(plane, w))));
            apart = _mm512_add_epi64(apart, _mm512_popcnt_epi64(differing));
        }
        const __m256i sums = _mm512_cvtepi64_epi32(_mm512_sub_epi64(_mm512_set1_epi64(positive), apart));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + i), sums);
    }
}
#endif

// Products of signs with signs use bits, all others use units.
struct CodePanel {
    char* memory;
    float lower[CODE_PANEL] = {}, step[CODE_PANEL] = {};

    static bool counts(const CodeTable& t) { return t.bits == 1 && t.query_bits == 1; }
    static int64_t units(const CodeTable& t) { return (t.dim + CodeUnit::depth - 1) / CodeUnit::depth; }
    static int64_t row_columns(const CodeTable& t) { return (8 / t.bits * t.width + 63) / 64 * 64; }
    static int64_t query_bytes(const CodeTable& t) { return counts(t) ? t.width : 4 * units(t); }
    static int64_t bytes(const CodeTable& t) { return counts(t) ? t.width * CODE_PANEL : 4 * units(t) * CODE_PANEL + row_columns(t); }

    static void pack_query(const CodeTable& t, const int8_t* z, char* payload) {
        if (counts(t)) return planes_of(z, t, payload);
        for (int64_t k = 0; k < units(t); ++k) {
            const uint32_t unit = code_unit(z + k * CodeUnit::depth);
            __builtin_memcpy(payload + 4 * k, &unit, 4);
        }
    }

    // Rows [first, first + n) of the table. The rest of the panel repeats the last row; its results are not used.
    void unpack(const CodeTable& t, int64_t first, int64_t n) {
        for (int64_t i = 0; i < CODE_PANEL; ++i) {
            const char* row = t.rows + (first + (i < n ? i : n - 1)) * t.row_bytes;
            __builtin_memcpy(lower + i, row + t.width, 4);
            __builtin_memcpy(step + i, row + t.width + 4, 4);
            if (counts(t)) {
                auto* words = reinterpret_cast<uint64_t*>(memory);
                for (int64_t w = 0; w < t.width / 8; ++w) words[w * CODE_PANEL + i] = word_at(row, w);
            } else {
                turn_row(t, row, i);
            }
        }
    }

    void dots(const CodeTable& t, const CodeQuery& query, const char* payload, int32_t* to) const {
        if (!counts(t)) return multiply(t, payload, to);
        const auto* words = reinterpret_cast<const uint64_t*>(memory);
#if RECFX_LANES == 16
        static const bool wide = __builtin_cpu_supports("avx512vpopcntdq");
        if (wide) return count_panel_wide(words, t.width / 8, payload, query.positive, to);
#endif
        count_panel_plain(words, t.width / 8, payload, query.positive, to);
    }

  private:
    // The codes of a row as bytes, eight at a time. A shift moves bits between bytes, and the mask removes them.
    void turn_row(const CodeTable& t, const char* row, int64_t i) {
        auto* all = reinterpret_cast<uint32_t*>(memory);
        auto* columns = reinterpret_cast<uint8_t*>(memory + 4 * units(t) * CODE_PANEL);
        const uint64_t mask = 0x0101010101010101u * uint64_t((1 << t.bits) - 1);
        for (int64_t s = 0; s < 8 / t.bits; ++s)
            for (int64_t w = 0; w < t.width / 8; ++w) {
                const uint64_t bytes = (word_at(row, w) >> (s * t.bits)) & mask;
                __builtin_memcpy(columns + s * t.width + 8 * w, &bytes, 8);
            }
        for (int64_t k = 0; k < units(t); ++k) all[k * CODE_PANEL + i] = code_unit(columns + k * CodeUnit::depth);
    }

    void multiply(const CodeTable& t, const char* payload, int32_t* to) const {
        const auto* all = reinterpret_cast<const uint32_t*>(memory);
        const int64_t count = units(t);
        for (int64_t i = 0; i < CODE_PANEL; i += 4 * W) {
            vi sums[4] = {};
            for (int64_t k = 0; k < count; ++k) {
                uint32_t z;
                __builtin_memcpy(&z, payload + 4 * k, 4);
#pragma GCC unroll 4
                for (int p = 0; p < 4; ++p) sums[p] = CodeUnit::step(sums[p], load_as<vi>(all + k * CODE_PANEL + i + p * W), z);
            }
            __builtin_memcpy(to + i, sums, sizeof sums);
        }
    }
};

}  // namespace
}  // namespace recfx
