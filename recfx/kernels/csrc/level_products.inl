// The kernels that multiply packed units of bfloat16 and int8, or convert to them: what a level with such instructions does in another
// way than the level below it. Every name is local to the source of the level.
#pragma once
#include "kernels.h"

#include "cin.inl"
#include "code_dot.inl"
#include "gemm.inl"
#include "pack.inl"
#include "propagate.inl"

namespace recfx {
namespace {

// A level whose other kernels are those of the level below it: compiled again, they would be the same code.
inline Level with_products(const Level& below) {
    Level level = below;
    level.name = RECFX_LEVEL_NAME;
    level.packing = {PANEL, DotF32::depth, DotBF16::depth, DotI8::depth};
    level.steps.of_kind[RECFX_GEMM] = gemm_step;
    level.steps.of_kind[RECFX_CIN] = cin_step;
    level.steps.of_kind[RECFX_CODE_DOT] = code_dot_step;
    level.pack = pack;
    level.propagate = propagate;
    return level;
}

}  // namespace
}  // namespace recfx
