// Ids of lookups: where they lie, the rows they name, and prefetches of those rows.
#pragma once
#include "kernels.h"
#include "simd.inl"

namespace recfx {
namespace {

constexpr int64_t BYTES_AHEAD = 10 << 10;  // bytes of prefetched rows: measured on rows of 128 and 256 bytes on an AMD EPYC (Zen 4)
constexpr int64_t NEVER = INT64_MIN;  // means no padding; an id may still have this value

template <bool Wide>
inline int64_t id_of(const char* at) {
    if constexpr (Wide) return *reinterpret_cast<const int64_t*>(at);
    return *reinterpret_cast<const int32_t*>(at);
}

// The row of an id in a table that several features share. Overflow gives a row outside every table.
inline int64_t moved(int64_t id, int64_t base) { return int64_t(uint64_t(id) + uint64_t(base)); }

inline int64_t id_at(const Bound& slot, int64_t element) {
    return slot.dtype == RECFX_I32 ? reinterpret_cast<const int32_t*>(slot.base)[element] : reinterpret_cast<const int64_t*>(slot.base)[element];
}

inline int64_t fixed_element(const Context& c, int32_t slot, int64_t offset, int64_t row) {
    const Bound& b = c.slots[slot];
    return (row - b.first_row) * b.row_stride + offset;
}

inline int64_t rows_ahead(const RecfxFeature& f) {
    const int64_t rows = BYTES_AHEAD / (f.row_bytes + 1);
    return rows < 16 ? 16 : rows > 80 ? 80 : rows;
}

// Bytes of a row of whole vectors in a format of lookup_rows.inl.
constexpr int64_t bytes_of(int format, int64_t values) {
    return format == ROWS_F32 ? 4 * values : format == ROWS_BF16 || format == ROWS_F16 ? 2 * values : values * format / 8 + 4;
}

// Prefetches a row of `Bytes`, or of row_bytes if that is 0. Forced inline: GCC removes calls of a function that only prefetches.
template <int64_t Bytes>
__attribute__((always_inline)) inline void fetch(const char* rows, int64_t row_bytes, uint64_t limit, int64_t row) {
    if (uint64_t(row) >= limit) return;
    const char* p = rows + row * row_bytes;
    const int64_t bytes = Bytes ? Bytes : row_bytes < 512 ? row_bytes : 512;
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(p + b);
    if (bytes % 64) __builtin_prefetch(p + bytes - 1);
}

}  // namespace
}  // namespace recfx
