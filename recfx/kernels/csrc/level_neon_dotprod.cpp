#define RECFX_LANES 4
#define RECFX_LEVEL_NAME "neon_dotprod"
#include "level_products.inl"

const recfx::Level* recfx::level_neon_dotprod() {
    static const Level level = with_products(*level_portable());
    return &level;
}
