"""Descriptions of a lookup's features, an MLP's layers and cross layers. The operators take lists of them, encoded as numbers."""

from __future__ import annotations

import dataclasses

#: Ways to combine the rows of a bag.
SUM, MEAN, NONE = 0, 1, 2

#: Activations; their positions are the numbers that encode them.
ACTIVATIONS = (
    "none",
    "relu",
    "gelu",
    "gelu-tanh",
    "silu",
    "sigmoid",
    "tanh",
    "prelu",
    "dice",
    "leaky-relu",
    "row-dice",
)


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature of a grouped lookup: the rows it reads and the columns it writes.

    Attributes:
        table: Position in `tables`: float32, bfloat16 or float16 [rows, dim], or uint8 [rows, bytes] in the row-wise format of `bits` bits.
        ids: Position in `ids`: int32 or int64, [B] or [B, N] when the bag's length is fixed, [nnz] when it is jagged.
        dim: Columns of the table.
        output: First column written.
        column: First id column read, for bags of fixed length.
        length: Ids per bag; JAGGED (-1) when offsets give the bags.
        offsets: Position in `offsets` of a 1-D tensor of `segments * B` starts (one more with `last`); -1 without.
        segment: Which run of B starts in the offsets belongs to this feature.
        segments: How many runs the offsets hold.
        last: Whether the offsets end with the number of ids.
        weights: Position in `weights` of a float32 tensor of the same shape as the ids; -1 without.
        pooling: SUM, MEAN or NONE (the rows side by side, `length * dim` columns).
        padding: Ids equal to it add nothing and do not count in a mean; -1 without. Compared before `base` is added.
        base: Added to every id: where the feature's rows begin in a table that several features share.
        bits: 32 for float tables, 8, 4, 2 or 1 for the row-wise format.
    """

    table: int
    ids: int
    dim: int
    output: int
    column: int = 0
    length: int = 1
    offsets: int = -1
    segment: int = 0
    segments: int = 1
    last: bool = True
    weights: int = -1
    pooling: int = SUM
    padding: int = -1
    base: int = 0
    bits: int = 32

    @property
    def columns(self) -> int:
        """Columns of the output the feature writes."""
        return self.dim * self.length if self.pooling == NONE else self.dim


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of an MLP; integers are positions in `params`, -1 for an absent parameter.

    Attributes:
        weight: [N, K], float32, bfloat16 or int8.
        bias: [N].
        scale: [N] float32, of an int8 weight.
        activation: A name of ACTIVATIONS.
        slope: [N] or [1]: PReLU's slope, Dice's alpha.
        gate_scale: [N]: Dice's gate is sigmoid(x * gate_scale + gate_shift), its batch norm folded. Row-dice's is
            sigmoid(layer_norm(x) * gate_scale + gate_shift).
        gate_shift: [N].
        norm_weight: [N] of a LayerNorm between the linear and the activation; see `norm`.
        norm_bias: [N].
        norm: Whether there is a LayerNorm.
        residual: -1 for none, 0 for the chain's input, i for the output of layer i (counted from 1).
        norm_eps: The epsilon of the LayerNorm.
        number: Slope of leaky ReLU, eps of row-dice's norm.
        input_scale: Calibrated scale of an int8 layer's input, symmetric; 0 if each row has its own scale.
        factor: [K] in (0, 1], of an int8 layer: multiplies the columns of the input before it is quantised. The weight is that of the
            multiplied input.
    """

    weight: int
    bias: int = -1
    scale: int = -1
    activation: str = "none"
    slope: int = -1
    gate_scale: int = -1
    gate_shift: int = -1
    norm_weight: int = -1
    norm_bias: int = -1
    norm: bool = False
    residual: int = -1
    norm_eps: float = 1e-5
    number: float = 0.0
    input_scale: float = 0.0
    factor: int = -1


@dataclasses.dataclass(frozen=True)
class CrossLayer:
    """One cross layer; integers are positions in `params`, -1 for an absent parameter.

    Attributes:
        kind: VECTOR, FULL or LOW_RANK.
        weight: w [D] or [1, D]; W [D, D]; U [D, R].
        bias: b [D].
        inner: V [R, D] of a low-rank layer.
        scale: [D], of an int8 W or U.
        inner_scale: [R], of an int8 V.
        factor: [D], or [R] of a low-rank layer: the factor of the input of an int8 W or U, as that of `Layer`.
        inner_factor: [D], the same of an int8 V.
        input_scale: Calibrated scale of the input of an int8 W or U; 0 if each row has its own scale.
        inner_input_scale: The same of an int8 V.
    """

    kind: int
    weight: int
    bias: int = -1
    inner: int = -1
    scale: int = -1
    inner_scale: int = -1
    factor: int = -1
    inner_factor: int = -1
    input_scale: float = 0.0
    inner_input_scale: float = 0.0

    def positions(self) -> dict[str, int]:
        """Field -> position, of the parameters that the layer has."""
        fields = ("weight", "bias", "inner", "scale", "inner_scale", "factor", "inner_factor")
        return {name: getattr(self, name) for name in fields if getattr(self, name) >= 0}
