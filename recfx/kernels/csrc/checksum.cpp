// CRC-32 by carry-less products where the processor has them, and else by tables, eight bytes at a time.
//
// The bits of a message are the coefficients of a polynomial over {0, 1}, lowest bit of a byte first; its checksum is the remainder by POLYNOMIAL.
// 16 bytes may be replaced by their product with x^distance mod POLYNOMIAL, added to the 16 bytes that follow them at this distance: the remainder
// stays (V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009). What is left at the end, 16 bytes
// and fewer than 64 behind them, goes through the tables.
#include "checksum.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr uint32_t POLYNOMIAL = 0xedb88320;  // without x^32, the coefficient of x^31 in the lowest bit
constexpr size_t BYTES = 8;                  // of a step by tables

// A remainder, times x.
constexpr uint32_t times_x(uint32_t remainder) { return remainder >> 1 ^ (remainder & 1 ? POLYNOMIAL : 0); }

struct Tables {
    uint32_t of[BYTES][256];  // of[n][b]: the checksum of byte b with n zero bytes behind it
};

constexpr Tables tables() {
    Tables made{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t remainder = b;
        for (size_t n = 0; n < BYTES; ++n) {
            for (int bit = 0; bit < 8; ++bit) remainder = times_x(remainder);
            made.of[n][b] = remainder;
        }
    }
    return made;
}

constexpr Tables TABLES = tables();

uint32_t by_tables(const uint8_t* bytes, size_t count, uint32_t remainder) {
    for (; count >= BYTES; bytes += BYTES, count -= BYTES) {
        uint32_t next = 0;
        for (size_t n = 0; n < BYTES; ++n) next ^= TABLES.of[BYTES - 1 - n][uint8_t(bytes[n] ^ (n < 4 ? remainder >> 8 * n : 0))];
        remainder = next;
    }
    for (; count; ++bytes, --count) remainder = remainder >> 8 ^ TABLES.of[0][uint8_t(*bytes ^ remainder)];
    return remainder;
}

#if defined(__x86_64__)
constexpr size_t BLOCK = 16, BLOCKS = 4;

// x^power mod POLYNOMIAL as a factor: a product of reversed bits has one zero bit at its end, for which the shift makes up.
constexpr int64_t factor(int power) {
    uint32_t remainder = 0x80000000;
    for (int i = 0; i < power; ++i) remainder = times_x(remainder);
    return int64_t(uint64_t(remainder) << 1);
}

// The factors by which the two halves of 16 bytes move so many bytes on.
#define RECFX_FACTORS(bytes) _mm_set_epi64x(factor(8 * int(bytes) - 32), factor(8 * int(bytes) + 32))

__attribute__((target("pclmul"))) inline __m128i moved_onto(__m128i from, __m128i factors, __m128i to) {
    const __m128i low = _mm_clmulepi64_si128(from, factors, 0x00), high = _mm_clmulepi64_si128(from, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), to);
}

// At least BLOCK * BLOCKS bytes.
__attribute__((target("pclmul"))) uint32_t by_products(const uint8_t* bytes, size_t count, uint32_t remainder) {
    const auto block = [&](size_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i * BLOCK)); };
    __m128i held[BLOCKS] = {_mm_xor_si128(block(0), _mm_cvtsi32_si128(int(remainder))), block(1), block(2), block(3)};
    const __m128i far = RECFX_FACTORS(BLOCK * BLOCKS), near = RECFX_FACTORS(BLOCK);
    while (bytes += BLOCK * BLOCKS, (count -= BLOCK * BLOCKS) >= BLOCK * BLOCKS)
        for (size_t i = 0; i < BLOCKS; ++i) held[i] = moved_onto(held[i], far, block(i));
    for (size_t i = 1; i < BLOCKS; ++i) held[i] = moved_onto(held[i - 1], near, held[i]);
    uint8_t last[BLOCK];
    std::memcpy(last, &held[BLOCKS - 1], BLOCK);
    return by_tables(bytes, count, by_tables(last, BLOCK, 0));
}
#endif

}  // namespace

namespace recfx {

uint32_t checksum_portable(const void* bytes, size_t count, uint32_t before) {
    return ~by_tables(static_cast<const uint8_t*>(bytes), count, ~before);
}

uint32_t checksum(const void* bytes, size_t count, uint32_t before) {
#if defined(__x86_64__)
    static const bool products = __builtin_cpu_supports("pclmul");
    if (products && count >= BLOCK * BLOCKS) return ~by_products(static_cast<const uint8_t*>(bytes), count, ~before);
#endif
    return checksum_portable(bytes, count, before);
}

}  // namespace recfx

extern "C" __attribute__((visibility("default"))) int64_t recfx_checksum(const void* bytes, int64_t count, int64_t before, int32_t portable);

extern "C" {

int64_t recfx_checksum(const void* bytes, int64_t count, int64_t before, int32_t portable) {
    return (portable ? recfx::checksum_portable : recfx::checksum)(bytes, size_t(count), uint32_t(before));
}
}
