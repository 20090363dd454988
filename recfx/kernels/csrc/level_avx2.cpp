#define RECFX_LANES 8
#define RECFX_LEVEL_NAME "avx2"
#include "level.inl"

const recfx::Level* recfx::level_avx2() { return &level; }
