// Activations of a GEMM's and a norm's epilogue; the numbers are positions in recfx.ops.mlp.ACTIVATIONS.
#pragma once

struct Activation {
    int64_t kind;
    float number;
    const float *slope, *gate_scale, *gate_shift;  // one per column, padded to whole vectors
};

inline Activation activation_of(const RecfxStep& step, int64_t kind) {
    return {kind, float(step.floats[1]), static_cast<const float*>(step.pointers[4]), static_cast<const float*>(step.pointers[5]),
            static_cast<const float*>(step.pointers[6])};
}

inline vf gelu(vf y) { return y * 0.5f * (1.0f + erf_(y * 0.707106781f)); }
inline vf gelu_tanh(vf y) { return y * 0.5f * (1.0f + tanh_((y + y * y * y * 0.044715f) * 0.797884561f)); }

inline vf activate(vf y, const Activation& a, int64_t column) {
    switch (a.kind) {
        case 1: return y < 0.0f ? splat(0.0f) : y;
        case 2: return gelu(y);
        case 3: return gelu_tanh(y);
        case 4: return y * sigmoid(y);
        case 5: return sigmoid(y);
        case 6: return tanh_(y);
        case 7: return y > 0.0f ? y : y * load(a.slope + column);
        case 8: {
            const vf gate = sigmoid(y * load(a.gate_scale + column) + load(a.gate_shift + column));
            return gate * y + (1.0f - gate) * load(a.slope + column) * y;
        }
        case 9: return y > 0.0f ? y : y * a.number;
        default: return y;
    }
}

// Dice whose gate is the sigmoid of a norm over the row; a norm's alone, since it needs the value before the norm as well.
constexpr int64_t ROW_DICE = 10;

inline vf row_dice(vf x, vf normed, const Activation& a, int64_t column) {
    const vf gate = sigmoid(normed);
    return gate * x + (1.0f - gate) * load(a.slope + column) * x;
}
