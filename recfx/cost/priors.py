"""The weights that a backend has before anything is measured on a machine, and the cost of a hand-off."""

from __future__ import annotations

from recfx.cost.fit import Weights

#: Seconds of a hand-off between two backends of the same device, which copies nothing.
HANDOFF = 1e-6

# fmt: off
_WEIGHTS: dict[str, dict[str, float]] = {
    "native": {
        "attention.fp32": 4.5, "attention.memory": 1.1, "attention.operators": 0.02, "attention.pieces": 2.0, "call": 1.1e-06,
        "cin.fp32": 1.2, "cin.memory": 1.0, "cin.operators": 0.02, "cin.pieces": 1.0, "cin.weights": 0.47, "concatenation.memory": 0.52,
        "concatenation.operators": 0.77, "concatenation.pieces": 0.16, "convolution.fp32": 2.3, "convolution.memory": 1.1,
        "convolution.operators": 1.0, "convolution.pieces": 1.3, "convolution.weights": 1.0, "copy.memory": 1.1, "copy.operators": 1.6,
        "copy.pieces": 1.1, "cross.fp32": 0.92, "cross.memory": 0.79, "cross.operators": 0.81, "cross.pieces": 1.0,
        "cross.weights": 0.35, "dot_interaction.fp32": 1.3, "dot_interaction.memory": 0.85, "dot_interaction.operators": 1.0,
        "dot_interaction.pieces": 1.3, "elementwise.fp32": 8.3, "elementwise.memory": 0.02, "elementwise.operators": 0.041,
        "elementwise.pieces": 0.067, "fm.fp32": 0.87, "fm.memory": 0.02, "fm.operators": 0.93, "fm.pieces": 0.18,
        "grouped_lookup.memory": 0.02, "grouped_lookup.operators": 0.8, "grouped_lookup.pieces": 0.02, "grouped_lookup.rows": 2.5,
        "grouped_lookup.tables": 0.036, "large results": 0.087, "lookup.memory": 1.0, "lookup.operators": 0.37, "lookup.pieces": 0.062,
        "lookup.rows": 0.98, "lookup.tables": 0.37, "mask.fp32": 1.5, "mask.memory": 3.1, "mask.operators": 0.44, "mask.pieces": 0.37,
        "mlp.bf16": 0.48, "mlp.bf16 weights": 0.43, "mlp.fp32": 0.94, "mlp.int8": 0.28, "mlp.int8 weights": 0.38, "mlp.memory": 0.02,
        "mlp.operators": 0.79, "mlp.pieces": 0.14, "mlp.weights": 0.46, "normalization.fp32": 0.98, "normalization.memory": 1.1,
        "normalization.operators": 0.51, "normalization.pieces": 0.56, "normalization.weights": 0.99, "other.memory": 1.0,
        "other.operators": 0.02, "other.pieces": 1.1, "pooling.fp32": 1.0, "pooling.memory": 1.0, "pooling.operators": 1.0,
        "pooling.pieces": 0.13, "product.fp32": 0.57, "product.memory": 1.1, "product.operators": 0.9, "product.pieces": 0.83,
        "recurrent.fp32": 2.0, "recurrent.memory": 0.99, "recurrent.operators": 0.02, "recurrent.pieces": 0.02,
        "recurrent.weights": 0.21, "statistics.fp32": 1.0, "statistics.memory": 1.0, "statistics.operators": 0.87,
        "statistics.pieces": 0.02, "sum.fp32": 0.99, "sum.memory": 0.086, "sum.operators": 0.89, "sum.pieces": 0.045,
        "target_attention.fp32": 1.6, "target_attention.memory": 1.0, "target_attention.operators": 1.2, "target_attention.pieces": 1.3,
        "target_attention.weights": 1.0, "transcendental.fp32": 0.79, "transcendental.memory": 1.4, "transcendental.operators": 0.31,
        "transcendental.pieces": 0.02, "view.operators": 0.33,
    },
    "openvino": {
        "attention.fp32": 4.7, "attention.memory": 1.0, "attention.operators": 0.02, "attention.pieces": 2.0, "call": 2.5e-05,
        "concatenation.memory": 2.7, "concatenation.operators": 6.0, "concatenation.pieces": 0.19, "convolution.fp32": 1.2,
        "convolution.memory": 1.1, "convolution.operators": 6.0, "convolution.pieces": 1.1, "convolution.weights": 1.2,
        "copy.memory": 0.02, "copy.operators": 2.6, "copy.pieces": 2.1, "copy.weights": 0.9, "elementwise.fp32": 18.0,
        "elementwise.memory": 0.02, "elementwise.operators": 0.67, "elementwise.pieces": 0.04, "large results": 0.2,
        "lookup.memory": 4.2, "lookup.operators": 2.7, "lookup.pieces": 0.12, "lookup.rows": 0.02, "lookup.tables": 2.7,
        "mask.fp32": 0.81, "mask.memory": 0.045, "mask.operators": 2.9, "mask.pieces": 0.22, "normalization.fp32": 0.99,
        "normalization.memory": 2.0, "normalization.operators": 3.2, "normalization.pieces": 0.81, "normalization.weights": 1.0,
        "other.memory": 0.97, "other.operators": 0.02, "other.pieces": 0.02, "pooling.fp32": 1.0, "pooling.memory": 1.0,
        "pooling.operators": 5.3, "pooling.pieces": 0.14, "product.fp32": 0.91, "product.memory": 2.4, "product.operators": 0.02,
        "product.pieces": 1.2, "product.weights": 1.0, "sum.fp32": 2.4, "sum.memory": 3.2, "sum.operators": 1.9, "sum.pieces": 0.02,
        "transcendental.fp32": 0.87, "transcendental.memory": 0.55, "transcendental.operators": 0.64, "transcendental.pieces": 0.02,
        "view.operators": 1.8,
    },
    "eager": {
        "attention.fp32": 7.4, "attention.memory": 2.1, "attention.operators": 4.9, "attention.pieces": 2.8, "call": 4.3e-07,
        "cin.fp32": 2.0, "cin.memory": 1.1, "cin.operators": 18.0, "cin.pieces": 1.0, "cin.weights": 8.4, "concatenation.memory": 0.38,
        "concatenation.operators": 1.7, "concatenation.pieces": 0.032, "convolution.fp32": 2.1, "convolution.memory": 2.7,
        "convolution.operators": 10.0, "convolution.pieces": 1.3, "convolution.weights": 2.0, "copy.memory": 1.0, "copy.operators": 2.5,
        "copy.pieces": 0.59, "cross.fp32": 1.1, "cross.memory": 1.1, "cross.operators": 1.9, "cross.pieces": 1.0, "cross.weights": 4.0,
        "dot_interaction.fp32": 8.3, "dot_interaction.memory": 3.5, "dot_interaction.operators": 8.1, "dot_interaction.pieces": 7.7,
        "elementwise.fp32": 0.69, "elementwise.memory": 0.66, "elementwise.operators": 2.0, "elementwise.pieces": 0.02, "fm.fp32": 1.0,
        "fm.memory": 0.87, "fm.operators": 13.0, "fm.pieces": 1.3, "fourier.fp32": 0.57, "fourier.memory": 1.0, "fourier.operators": 6.1,
        "fourier.pieces": 1.0, "grouped_lookup.memory": 0.83, "grouped_lookup.operators": 1.1, "grouped_lookup.pieces": 0.02,
        "grouped_lookup.rows": 4.2, "grouped_lookup.tables": 5.2, "large results": 0.082, "lookup.memory": 1.0, "lookup.operators": 2.0,
        "lookup.pieces": 0.02, "lookup.rows": 0.98, "lookup.tables": 2.0, "mask.fp32": 5.6, "mask.memory": 9.4, "mask.operators": 1.8,
        "mask.pieces": 0.02, "mlp.bf16": 1.1, "mlp.bf16 weights": 7.0, "mlp.fp32": 1.0, "mlp.int8": 3.1, "mlp.int8 weights": 40.0,
        "mlp.memory": 1.3, "mlp.operators": 13.0, "mlp.pieces": 0.02, "mlp.weights": 1.5, "normalization.fp32": 1.0,
        "normalization.memory": 0.02, "normalization.operators": 1.5, "normalization.pieces": 1.2, "normalization.weights": 1.0,
        "other.memory": 1.1, "other.operators": 18.0, "other.pieces": 1.1, "pooling.fp32": 1.0, "pooling.memory": 0.96,
        "pooling.operators": 0.02, "pooling.pieces": 0.13, "product.fp32": 1.2, "product.memory": 1.0, "product.operators": 1.4,
        "product.pieces": 1.1, "recurrent.fp32": 3.3, "recurrent.memory": 1.5, "recurrent.operators": 18.0, "recurrent.pieces": 28.0,
        "recurrent.weights": 6.8, "sort.fp32": 0.54, "sort.memory": 1.0, "sort.operators": 3.0, "sort.pieces": 1.3,
        "statistics.fp32": 1.0, "statistics.memory": 1.0, "statistics.operators": 3.7, "statistics.pieces": 0.063, "sum.fp32": 0.99,
        "sum.memory": 1.0, "sum.operators": 3.0, "sum.pieces": 0.02, "target_attention.fp32": 7.1, "target_attention.memory": 1.5,
        "target_attention.operators": 30.0, "target_attention.pieces": 3.6, "target_attention.weights": 4.3, "transcendental.fp32": 1.1,
        "transcendental.memory": 1.5, "transcendental.operators": 0.02, "transcendental.pieces": 2.6, "view.operators": 0.59,
    },
}
# fmt: on


def prior(backend: str) -> Weights:
    """The weights of a backend; those of an unknown one are about 1."""
    return Weights(_WEIGHTS.get(backend, {"call": 5e-6}))
