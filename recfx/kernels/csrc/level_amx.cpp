#define RECFX_LANES 16
#define RECFX_LEVEL_NAME "amx"
#include "cin.inl"
#include "gemm.inl"

const recfx::Level* recfx::level_amx() {
    static const Level level = [] {
        Level own = *level_avx512_bf16();
        own.name = RECFX_LEVEL_NAME;
        own.steps.of_kind[RECFX_GEMM] = gemm_step;
        own.steps.of_kind[RECFX_CIN] = cin_step;
        return own;
    }();
    return &level;
}
