// Rows of numbers as codes of 8, 4 or 2 bits with a scale and a bias in half precision, as recfx.formats.rowwise packs them.
// Compiled for the least instruction set and without contraction, so that every machine gives the bits of that reference.
#include "encode.h"

#include <cstring>

#include "half.inl"

namespace recfx {
namespace {

constexpr int64_t WIDTH = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Words __attribute__((vector_size(16)));
constexpr uint32_t INFINITE = 0x7f800000, SIGN = 0x80000000;

uint32_t bits_of(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return bits;
}

// Rounds to the nearest half-precision number, ties to even.
uint16_t to_half(float f) {
    const uint32_t bits = bits_of(f), sign = (bits & SIGN) >> 16, size = bits & ~SIGN;
    if (size >= 0x47800000) return uint16_t(sign | (size > INFINITE ? 0x7e00 : 0x7c00));  // 65536 and more, and NaN
    if (size < 0x38800000) {  // below 2^-14: the sum with 0.5 has the unit of subnormal numbers in its last place
        float shifted;
        std::memcpy(&shifted, &size, 4);
        return uint16_t(sign | (bits_of(shifted + 0.5f) - 0x3f000000));
    }
    const uint32_t rebiased = size - (112u << 23);
    return uint16_t(sign | ((rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13));
}

bool finite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// The least and the greatest number of a row; false if one is not finite.
bool range_of(const float* row, int64_t dim, float& low, float& high) {
    low = high = row[0];
    uint32_t odd = 0;
    int64_t d = 0;
    if (dim >= WIDTH) {
        Floats lows, highs;
        std::memcpy(&lows, row, sizeof lows);
        highs = lows;
        Words odds = {};
        for (; d + WIDTH <= dim; d += WIDTH) {
            Floats x;
            Words bits;
            std::memcpy(&x, row + d, sizeof x);
            std::memcpy(&bits, row + d, sizeof bits);
            lows = x < lows ? x : lows;
            highs = x > highs ? x : highs;
            odds |= (bits & int32_t(~SIGN)) >= int32_t(INFINITE);
        }
        for (int64_t l = 0; l < WIDTH; ++l) {
            low = lows[l] < low ? lows[l] : low;
            high = highs[l] > high ? highs[l] : high;
            odd |= uint32_t(odds[l]);
        }
    }
    for (; d < dim; ++d) {
        const float x = row[d];
        low = x < low ? x : low;
        high = x > high ? x : high;
        odd |= (bits_of(x) & ~SIGN) >= INFINITE;
    }
    return !odd;
}

// The codes of numbers, rounded half to even: floats above 2^23 have no fraction.
inline void codes_of(const float* x, int64_t count, float bias, float inverse, float levels, uint8_t* codes) {
    constexpr float WHOLE = 12582912.0f;
    for (int64_t i = 0; i < count; ++i) {
        float code = ((x[i] - bias) * inverse + WHOLE) - WHOLE;
        code = code < 0.0f ? 0.0f : code;
        code = code > levels ? levels : code;
        codes[i] = uint8_t(int32_t(code));
    }
}

// Packs codes, the first in the lowest bits. Returns the end of the bytes.
template <int Bits>
uint8_t* pack_codes(const uint8_t* codes, int64_t count, uint8_t* to) {
    constexpr int64_t PER = 8 / Bits;
    for (int64_t i = 0; i < count; i += PER) {
        uint8_t packed = 0;
        for (int64_t k = 0; k < PER && i + k < count; ++k) packed = uint8_t(packed | codes[i + k] << (k * Bits));
        *to++ = packed;
    }
    return to;
}

template <int Bits>
bool encode_row(const float* row, int64_t dim, uint8_t* to) {
    constexpr float LEVELS = (1 << Bits) - 1;
    constexpr int64_t BLOCK = 256;
    float low, high;
    if (!range_of(row, dim, low, high)) return false;
    uint16_t bias_bits = to_half(low);
    if (bias_bits == 0x8000) bias_bits = 0;  // a bias of zero is positive
    const float bias = half_to_float(bias_bits);
    uint16_t scale_bits = to_half((high - bias) / LEVELS);
    if (!finite(bias_bits) || !finite(scale_bits)) return false;
    if (!(scale_bits & 0x7fff)) scale_bits = 0x3c00;  // 1
    const float inverse = 1.0f / half_to_float(scale_bits);
    uint8_t codes[BLOCK];
    for (int64_t d = 0; d < dim; d += BLOCK) {
        const int64_t count = dim - d < BLOCK ? dim - d : BLOCK;
        if constexpr (Bits == 8) {
            codes_of(row + d, count, bias, inverse, LEVELS, to);
            to += count;
        } else {
            codes_of(row + d, count, bias, inverse, LEVELS, codes);
            to = pack_codes<Bits>(codes, count, to);
        }
    }
    std::memcpy(to, &scale_bits, 2);
    std::memcpy(to + 2, &bias_bits, 2);
    return true;
}

}  // namespace

EncodeRow encode_row_of(int64_t bits) {
    switch (bits) {
        case 8: return encode_row<8>;
        case 4: return encode_row<4>;
        case 2: return encode_row<2>;
        default: return nullptr;
    }
}

}  // namespace recfx

extern "C" __attribute__((visibility("default"))) int64_t recfx_encode_rows(int32_t bits, const float* rows, int64_t count, int64_t dim, uint8_t* out);

extern "C" {

// Packs rows [count, dim] into bytes [count, ceil(dim * bits / 8) + 4]. Returns the first row that holds NaN, infinities or numbers beyond half
// precision, or -1; -2 for other bits and for rows without numbers.
int64_t recfx_encode_rows(int32_t bits, const float* rows, int64_t count, int64_t dim, uint8_t* out) {
    const recfx::EncodeRow encode = recfx::encode_row_of(bits);
    if (dim < 1 || !encode) return -2;
    const int64_t bytes = (dim * bits + 7) / 8 + 4;
    for (int64_t row = 0; row < count; ++row)
        if (!encode(rows + row * dim, dim, out + row * bytes)) return row;
    return -1;
}
}
