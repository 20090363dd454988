#define RECFX_LANES 16
#define RECFX_LEVEL_NAME "avx512"
#include "level.inl"

const recfx::Level* recfx::level_avx512() { return &level; }
