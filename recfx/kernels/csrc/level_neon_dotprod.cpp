#define RECFX_LANES 4
#define RECFX_LEVEL_NAME "neon_dotprod"
#include "level.inl"

const recfx::Level* recfx::level_neon_dotprod() { return &level; }
