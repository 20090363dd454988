// Packing one row of numbers into codes; see encode.cpp.
#pragma once
#include <cstdint>

namespace recfx {

// Packs one row into ceil(dim * bits / 8) + 4 bytes; false where it holds NaN, infinities or numbers beyond half precision.
using EncodeRow = bool (*)(const float* row, int64_t dim, uint8_t* to);

// The function for codes of so many bits; nullptr for others than 8, 4 and 2.
EncodeRow encode_row_of(int64_t bits);

}  // namespace recfx
