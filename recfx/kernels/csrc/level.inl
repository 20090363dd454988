// One instruction-set level: all kernels, compiled with the flags of that level. Every name is local to the source of the level. A level that
// adds instructions for products only is level_products.inl.
#pragma once
#include "kernels.h"

#include "simd.inl"
#include "functions.inl"
#include "gelu.inl"
#include "activation.inl"
#include "dot_units.inl"
#include "pack.inl"
#include "convert.inl"
#include "tiles.inl"
#include "gemm.inl"
#include "cin.inl"
#include "recurrent.inl"
#include "lookup.inl"
#include "interaction.inl"
#include "elementary.inl"
#include "pointwise.inl"
#include "integer.inl"
#include "elements.inl"
#include "take.inl"
#include "rows.inl"
#include "fold.inl"
#include "order.inl"
#include "convolve.inl"
#include "bmm.inl"
#include "key_scores.inl"
#include "propagate.inl"
#include "bpr.inl"
#include "code_query.inl"
#include "code_panel.inl"
#include "code_dot.inl"

namespace recfx {
namespace {

constexpr Steps steps_by_kind() {
    Steps steps{};
#define RECFX_STEP_FUNCTION(NAME, name) steps.of_kind[RECFX_##NAME] = name##_step;
    RECFX_EACH_STEP(RECFX_STEP_FUNCTION)
#undef RECFX_STEP_FUNCTION
    return steps;
}

constexpr bool complete(const Steps& steps) {
    for (const StepFunction function : steps.of_kind)
        if (!function) return false;
    return true;
}

constexpr Steps STEPS = steps_by_kind();
static_assert(complete(STEPS), "a kind of step has no function");

const Level level = {
    RECFX_LEVEL_NAME,
    {PANEL, DotF32::depth, DotBF16::depth, DotI8::depth},
    STEPS,
    announce_step,
    pack,
    propagate,
    bpr_slopes,
    bpr_user_rows,
    bpr_item_rows,
};

}  // namespace
}  // namespace recfx
