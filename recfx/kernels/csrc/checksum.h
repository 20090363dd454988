// The checksum of journals; see checksum.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace recfx {

// CRC-32 as zlib computes it, of bytes that follow others with the checksum `before` (0 for none).
uint32_t checksum(const void* bytes, size_t count, uint32_t before);

// The same without the instructions that only some processors have.
uint32_t checksum_portable(const void* bytes, size_t count, uint32_t before);

}  // namespace recfx
