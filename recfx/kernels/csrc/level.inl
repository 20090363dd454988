// One instruction-set level: everything of the kernels, compiled with that level's flags in a namespace of its own.
#include "kernels.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512BF16__) && RECFX_LANES == 16
#define RECFX_HAS_BF16 1
#endif
#if defined(__AVX512VNNI__) && RECFX_LANES == 16
#define RECFX_HAS_VNNI 1
#endif
#if defined(__AVX512BW__) && RECFX_LANES == 16
#define RECFX_HAS_MADD512 1
#endif
#if defined(__AVX2__) && RECFX_LANES == 8
#define RECFX_HAS_MADD256 1
#endif
#if defined(__ARM_FEATURE_DOTPROD) && RECFX_LANES == 4
#define RECFX_HAS_SDOT 1
#endif

namespace recfx {
namespace {
#include "simd.h"
#include "functions.inl"
#include "gelu.inl"
#include "activation.inl"
#include "dot_units.inl"
#include "pack.inl"
#include "convert.inl"
#include "gemm.inl"
#include "lookup.inl"
#include "interaction.inl"
#include "elementary.inl"
#include "pointwise.inl"
#include "integer.inl"
#include "elements.inl"
#include "take.inl"
#include "rows.inl"
#include "fold.inl"
#include "bmm.inl"
#include "key_scores.inl"
#include "propagate.inl"
#include "bpr.inl"
#include "code_query.inl"
#include "code_panel.inl"
#include "code_dot.inl"

#define RECFX_STEP_FUNCTION(name) name##_step,
const Level level = {
    RECFX_LEVEL_NAME,
    {PANEL, DotF32::depth, DotBF16::depth, DotI8::depth},
    {RECFX_EACH_STEP(RECFX_STEP_FUNCTION)},
    announce_step,
    pack,
    propagate,
    bpr_slopes,
    bpr_user_rows,
    bpr_item_rows,
};
#undef RECFX_STEP_FUNCTION
}  // namespace
}  // namespace recfx
