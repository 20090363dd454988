"""Operators that hold layers: where their matrices, scales and biases are among the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from recfx.ops import cin, cross, mlp


@dataclass(frozen=True)
class Matrix:
    """The fields of a layer that belong to one of its matrices.

    Attributes:
        weight: The field of the matrix.
        scale: The field of the scales of its output channels.
        factor: The field of the factors of its input; "" if the operator takes none.
        input_scale: The field of the calibrated scale of its input.
        bias: The field of the bias; "" if the product has none.
    """

    weight: str = "weight"
    scale: str = "scale"
    factor: str = "factor"
    input_scale: str = "input_scale"
    bias: str = "bias"


@dataclass(frozen=True)
class Kind:
    """The layout of the arguments of an operator with layers.

    Attributes:
        params: The position of the list of parameters among the arguments; the encoded layers follow it.
        lists: The number of arguments that encode the layers.
        names: The fields of a layer that are positions of parameters.
        matrices: Layer -> its matrices, in the order in which the reference multiplies them.
        decode: The arguments that encode the layers -> layers.
        encode: Layers -> these arguments.
        reference: The reference of the operator, which takes `multiply` as a keyword argument.
    """

    params: int
    lists: int
    names: tuple[str, ...]
    matrices: Callable[[Any], tuple[Matrix, ...]]
    decode: Callable[..., list[Any]]
    encode: Callable[[list[Any]], tuple[Any, ...]]
    reference: Callable[..., Any]

    def layers(self, arguments: Sequence[Any]) -> list[Any]:
        """The layers of a node with these arguments."""
        return self.decode(*arguments[self.params + 1 : self.params + 1 + self.lists])

    def with_layers(self, arguments: Sequence[Any], params: list[Any], layers: list[Any]) -> tuple[Any, ...]:
        """The arguments with other parameters and layers."""
        behind = arguments[self.params + 1 + self.lists :]
        return (*arguments[: self.params], params, *self.encode(layers), *behind)


_CROSS_MATRICES = {
    cross.VECTOR: (),
    cross.FULL: (Matrix(),),
    cross.LOW_RANK: (Matrix("inner", "inner_scale", "inner_factor", "inner_input_scale", ""), Matrix()),
}


def _cross_arguments(layers: list[Any]) -> tuple[Any, ...]:
    scales = cross.encode_scales(layers)
    return (cross.encode(layers), *([scales] if scales else []))


_LAYER = ("weight", "bias", "scale", "slope", "gate_scale", "gate_shift", "norm_weight", "norm_bias", "factor")

KINDS = {
    mlp.mlp: Kind(1, 2, _LAYER, lambda layer: (Matrix(),), mlp.decode, mlp.encode, mlp.reference),
    cin.cin: Kind(2, 2, _LAYER, lambda layer: (Matrix(factor=""),), mlp.decode, mlp.encode, cin.reference),
    cross.cross: Kind(
        2,
        2,
        ("weight", "bias", "inner", "scale", "inner_scale", "factor", "inner_factor"),
        lambda layer: _CROSS_MATRICES[layer.kind],
        cross.decode,
        _cross_arguments,
        cross.reference,
    ),
}


def compact(params: list[fx.Node], layers: list[Any], names: Sequence[str]) -> tuple[list[fx.Node], list[Any]]:
    """The parameters that layers still read, and the layers with the new positions in the named fields."""
    used = sorted({getattr(layer, n) for layer in layers for n in names} - {-1})
    moved = {old: new for new, old in enumerate(used)} | {-1: -1}
    changes: list[dict[str, Any]] = [{n: moved[getattr(layer, n)] for n in names} for layer in layers]
    fresh = [dataclasses.replace(layer, **change) for layer, change in zip(layers, changes, strict=True)]
    return [params[i] for i in used], fresh
