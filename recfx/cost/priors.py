"""The weights that a backend has before anything is measured on a machine, and the cost of a hand-off."""

from __future__ import annotations

from recfx.cost.fit import Weights

#: Seconds of a hand-off between two backends of the same device, which copies nothing.
HANDOFF = 1e-6

# fmt: off
_WEIGHTS: dict[str, dict[str, float]] = {
    "native": {
        "attention.fp32": 4.0, "attention.memory": 1.3, "attention.operators": 0.02, "attention.pieces": 1.8, "call": 1.3e-06,
        "concatenation.memory": 1.4, "concatenation.operators": 0.87, "convolution.fp32": 2.3, "convolution.memory": 1.1,
        "convolution.operators": 0.82, "convolution.pieces": 1.3, "convolution.weights": 1.0, "copy.memory": 5.6, "copy.operators": 1.7,
        "cross.fp32": 0.95, "cross.memory": 0.84, "cross.operators": 0.79, "cross.weights": 0.27, "dot_interaction.fp32": 2.3,
        "dot_interaction.memory": 0.88, "dot_interaction.operators": 0.78, "elementwise.fp32": 12.0, "elementwise.memory": 0.02,
        "elementwise.operators": 0.047, "fm.fp32": 2.0, "fm.memory": 0.02, "fm.operators": 0.74, "grouped_lookup.memory": 3.0,
        "grouped_lookup.operators": 0.41, "grouped_lookup.rows": 2.6, "grouped_lookup.tables": 0.029, "large results": 0.02,
        "mask.fp32": 26.0, "mask.memory": 0.02, "mask.operators": 0.47, "mlp.bf16": 0.46, "mlp.bf16 weights": 0.44, "mlp.fp32": 0.89,
        "mlp.int8": 0.26, "mlp.int8 weights": 0.39, "mlp.memory": 3.0, "mlp.operators": 0.61, "mlp.weights": 0.47,
        "normalization.fp32": 0.99, "normalization.memory": 0.28, "normalization.operators": 0.38, "normalization.pieces": 0.82,
        "normalization.weights": 0.99, "other.memory": 1.0, "other.operators": 0.02, "pooling.fp32": 1.0, "pooling.memory": 1.0,
        "pooling.operators": 0.71, "pooling.pieces": 0.13, "product.fp32": 0.8, "product.memory": 0.4, "product.operators": 1.0,
        "product.pieces": 0.92, "recurrent.fp32": 2.0, "recurrent.memory": 1.0, "recurrent.operators": 0.02, "recurrent.pieces": 0.02,
        "recurrent.weights": 0.41, "statistics.fp32": 1.0, "statistics.memory": 1.0, "statistics.operators": 0.78,
        "statistics.pieces": 0.02, "sum.fp32": 0.99, "sum.memory": 0.02, "sum.operators": 0.78, "sum.pieces": 0.048,
        "target_attention.fp32": 2.1, "target_attention.memory": 1.1, "target_attention.operators": 1.1, "target_attention.weights": 1.0,
        "transcendental.fp32": 1.5, "transcendental.memory": 1.4, "transcendental.operators": 0.19, "view.operators": 0.044,
    },
    "eager": {
        "attention.fp32": 6.9, "attention.memory": 2.3, "attention.operators": 6.1, "attention.pieces": 2.6, "call": 9.5e-07,
        "concatenation.memory": 0.6, "concatenation.operators": 0.69, "convolution.fp32": 2.1, "convolution.memory": 2.5,
        "convolution.operators": 9.6, "convolution.pieces": 1.3, "convolution.weights": 2.0, "copy.memory": 3.4, "copy.operators": 2.6,
        "cross.fp32": 1.1, "cross.memory": 1.1, "cross.operators": 1.8, "cross.weights": 3.8, "dot_interaction.fp32": 14.0,
        "dot_interaction.memory": 5.4, "dot_interaction.operators": 7.6, "elementwise.fp32": 4.0, "elementwise.memory": 0.02,
        "elementwise.operators": 2.1, "fm.fp32": 3.6, "fm.memory": 4.4, "fm.operators": 12.0, "fourier.fp32": 0.64,
        "fourier.memory": 1.0, "fourier.operators": 5.2, "fourier.pieces": 1.0, "grouped_lookup.memory": 10.0,
        "grouped_lookup.operators": 20.0, "grouped_lookup.rows": 3.6, "grouped_lookup.tables": 3.8, "large results": 0.06,
        "mask.fp32": 3.7, "mask.memory": 9.6, "mask.operators": 1.7, "mlp.bf16": 1.1, "mlp.bf16 weights": 6.9, "mlp.fp32": 1.0,
        "mlp.int8": 3.0, "mlp.int8 weights": 41.0, "mlp.memory": 1.3, "mlp.operators": 13.0, "mlp.weights": 1.4,
        "normalization.fp32": 1.0, "normalization.memory": 0.02, "normalization.operators": 1.2, "normalization.pieces": 1.2,
        "normalization.weights": 1.0, "other.memory": 1.1, "other.operators": 18.0, "pooling.fp32": 1.0, "pooling.memory": 0.96,
        "pooling.operators": 0.02, "pooling.pieces": 0.12, "product.fp32": 1.3, "product.memory": 0.77, "product.operators": 1.5,
        "product.pieces": 1.1, "recurrent.fp32": 3.2, "recurrent.memory": 1.4, "recurrent.operators": 18.0, "recurrent.pieces": 29.0,
        "recurrent.weights": 6.9, "sort.fp32": 0.59, "sort.memory": 1.0, "sort.operators": 2.4, "sort.pieces": 1.3,
        "statistics.fp32": 1.0, "statistics.memory": 1.0, "statistics.operators": 3.4, "statistics.pieces": 0.063, "sum.fp32": 0.99,
        "sum.memory": 0.88, "sum.operators": 2.6, "sum.pieces": 0.02, "target_attention.fp32": 7.9, "target_attention.memory": 1.6,
        "target_attention.operators": 29.0, "target_attention.weights": 4.2, "transcendental.fp32": 3.5, "transcendental.memory": 11.0,
        "transcendental.operators": 0.02, "view.operators": 0.096,
    },
}
# fmt: on


def prior(backend: str) -> Weights:
    """The weights of a backend; those of an unknown one are about 1."""
    return Weights(_WEIGHTS.get(backend, {"call": 5e-6}))
