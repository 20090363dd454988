#define RECFX_LANES 16
#define RECFX_LEVEL_NAME "avx512_bf16"
#include "level_products.inl"

const recfx::Level* recfx::level_avx512_bf16() {
    static const Level level = with_products(*level_avx512());
    return &level;
}
