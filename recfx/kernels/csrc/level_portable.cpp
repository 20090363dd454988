#define RECFX_LANES 4
#define RECFX_LEVEL_NAME "portable"
#include "level.inl"

const recfx::Level* recfx::level_portable() { return &level; }
