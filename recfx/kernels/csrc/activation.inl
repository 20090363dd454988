// Activations of a GEMM's and a norm's epilogue.
#pragma once
#include "abi.h"
#include "functions.inl"
#include "gelu.inl"

namespace recfx {
namespace {

struct Activation {
    int64_t kind;  // a RecfxAct
    float number;
    const float *slope, *gate_scale, *gate_shift;  // one per column, padded to whole vectors
};

// The activation of a step. Int, Float and Pointer are the enumerations that name the step's arguments.
template <class Int, class Float, class Pointer>
inline Activation activation_of(const RecfxStep& step) {
    return {step.ints[Int::activation], float(step.floats[Float::activation_number]), static_cast<const float*>(step.pointers[Pointer::slope]),
            static_cast<const float*>(step.pointers[Pointer::gate_scale]), static_cast<const float*>(step.pointers[Pointer::gate_shift])};
}

// From `low` where the gate is 0 to `high` where it is 1.
inline vf between(vf low, vf high, vf gate) { return gate * high + (1.0f - gate) * low; }

// `of(pointer)` reads the parameter of a column, or a vector of such parameters.
template <int64_t Kind, class Of>
inline vf activate_as(vf y, const Activation& a, Of of) {
    if constexpr (Kind == ACT_RELU) return y < 0.0f ? splat(0.0f) : y;
    else if constexpr (Kind == ACT_GELU) return gelu(y);
    else if constexpr (Kind == ACT_GELU_TANH) return gelu_tanh(y);
    else if constexpr (Kind == ACT_SILU) return silu(y);
    else if constexpr (Kind == ACT_SIGMOID) return sigmoid(y);
    else if constexpr (Kind == ACT_TANH) return tanh_(y);
    else if constexpr (Kind == ACT_PRELU) return y > 0.0f ? y : y * of(a.slope);
    else if constexpr (Kind == ACT_DICE) return between(of(a.slope) * y, y, sigmoid(y * of(a.gate_scale) + of(a.gate_shift)));
    else if constexpr (Kind == ACT_LEAKY_RELU) return y > 0.0f ? y : y * a.number;
    else return y;
}

template <int64_t Kind>
struct KindOf {
    static constexpr int64_t value = Kind;
};

// Calls `f` with a kind known to the compiler, so that loops in it have no branches on the kind.
template <class F>
inline auto with_kind(int64_t kind, F f) {
    switch (kind) {
        case ACT_RELU: return f(KindOf<ACT_RELU>{});
        case ACT_GELU: return f(KindOf<ACT_GELU>{});
        case ACT_GELU_TANH: return f(KindOf<ACT_GELU_TANH>{});
        case ACT_SILU: return f(KindOf<ACT_SILU>{});
        case ACT_SIGMOID: return f(KindOf<ACT_SIGMOID>{});
        case ACT_TANH: return f(KindOf<ACT_TANH>{});
        case ACT_PRELU: return f(KindOf<ACT_PRELU>{});
        case ACT_DICE: return f(KindOf<ACT_DICE>{});
        case ACT_LEAKY_RELU: return f(KindOf<ACT_LEAKY_RELU>{});
        default: return f(KindOf<ACT_NONE>{});
    }
}

inline vf activate(vf y, const Activation& a, int64_t column) {
    return with_kind(a.kind, [&](auto kind) { return activate_as<kind.value>(y, a, [column](const float* p) { return load(p + column); }); });
}

// Dice whose gate is the sigmoid of a norm over the row. Only norms have it: it needs the value before the norm, too.

inline vf row_dice(vf x, vf normed, const Activation& a, int64_t column) {
    return between(load(a.slope + column) * x, x, sigmoid(normed));
}

}  // namespace
}  // namespace recfx
