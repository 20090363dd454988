"""Products with a constant weight: linear layers, MLP chains with their norms, cross layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx

from recfx.formats.per_channel import MOST_COLUMNS
from recfx.kernels.codes import Kind, Op, WeightFormat
from recfx.kernels.slots import (
    GemmFloat,
    GemmInt,
    GemmPointer,
    GemmView,
    NormFloat,
    NormInt,
    NormPointer,
    NormView,
)
from recfx.ops import cross, mlp
from recfx.targets.native.builder import PlanBuilder, rows_of
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation, View
from recfx.targets.native.values import Dim, Unsupported, Value

_aten = torch.ops.aten

#: The vectors of an activation: the name of the pointer that takes it, in steps of products and norms -> its address.
ActivationVectors = dict[str, int]


def emit_gemm(
    builder: PlanBuilder,
    x: Value,
    weight: torch.Tensor,
    out: Value,
    *,
    bias: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    activation: int = 0,
    number: float = 0.0,
    input_scale: float = 0.0,
    factor: torch.Tensor | None = None,
    vectors: ActivationVectors | None = None,
    mul: Value | None = None,
    add: Value | None = None,
    sums_first: bool = False,
) -> None:
    """Adds the step `out = activation(x weight^T + bias) * mul + add`, or with `sums_first` `activation(x weight^T + bias + mul + add)`.

    The weight is [N, K]. The columns of the input of an int8 weight are multiplied by `factor` first.

    Raises:
        Unsupported: An int8 weight has so many columns that int32 sums can overflow.
    """
    n, k = weight.shape
    if weight.dtype is torch.int8 and k > MOST_COLUMNS:
        raise Unsupported(f"its int32 sums of {k} int8 products can overflow")
    address, format_ = builder.packer.weight(weight)
    pointers: dict[int, int] = {GemmPointer[name]: at for name, at in (vectors or {}).items()}
    pointers[GemmPointer.WEIGHT] = address
    if bias is not None:
        pointers[GemmPointer.BIAS] = builder.packer.vector(bias, n)
    if format_ is WeightFormat.I8:
        assert scale is not None
        pointers[GemmPointer.SCALE] = builder.packer.vector(scale, n)
        pointers[GemmPointer.COLUMN_SUMS] = builder.packer.column_sums(weight)
        if factor is not None:
            pointers[GemmPointer.FACTORS] = builder.packer.vector(factor, k)
    views: dict[int, View] = {GemmView.INPUT: rows_of(x)}
    if mul is not None:
        views[GemmView.FACTOR] = rows_of(mul)
    if add is not None:
        views[GemmView.SUMMAND] = rows_of(add)
    builder.emit(
        Kind.GEMM,
        out,
        rows_of(out).runs,
        views,
        ints={
            GemmInt.FORMAT: format_,
            GemmInt.OUTPUTS: n,
            GemmInt.INPUTS: k,
            GemmInt.ACTIVATION: activation,
            GemmInt.SUMS_FIRST: int(sums_first),
        },
        floats={GemmFloat.ACTIVATION_NUMBER: number, GemmFloat.INPUT_SCALE: input_scale},
        pointers=pointers,
    )


@dataclasses.dataclass(frozen=True)
class Norm:
    """A layer norm over the last dimension.

    Attributes:
        weight: [N], or None for ones.
        bias: [N], or None for zeros.
        eps: Added to the variance.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """The operations after a norm in the same step.

    Attributes:
        activation: Position in `mlp.ACTIVATIONS`.
        number: The activation's parameter.
        vectors: The activation's vectors, by the name of their pointer.
        residual: Added last.
    """

    activation: int = 0
    number: float = 0.0
    vectors: ActivationVectors = dataclasses.field(default_factory=dict)
    residual: Value | None = None


def emit_norm(builder: PlanBuilder, value: Value, out: Value, norm: Norm, epilogue: Epilogue | None = None) -> None:
    """Adds a layer norm over the last dimension, with its epilogue."""
    after = epilogue or Epilogue()
    n = value.dims[-1].size
    pointers: dict[int, int] = {NormPointer[name]: at for name, at in after.vectors.items()}
    for pointer, vector in ((NormPointer.WEIGHT, norm.weight), (NormPointer.BIAS, norm.bias)):
        if vector is not None:
            pointers[pointer] = builder.packer.vector(vector, n)
    views: dict[int, View] = {NormView.INPUT: rows_of(value)}
    if after.residual is not None:
        views[NormView.RESIDUAL] = rows_of(after.residual)
    builder.emit(
        Kind.NORM,
        out,
        rows_of(out).runs,
        views,
        ints={NormInt.ACTIVATION: after.activation},
        floats={NormFloat.EPSILON: norm.eps, NormFloat.ACTIVATION_NUMBER: after.number},
        pointers=pointers,
    )


def even_rows(builder: PlanBuilder, node: Any, *, mixed: bool = False) -> Value:
    """A float32 input whose last dimension is contiguous and whose rows are evenly spaced, copied if necessary; `mixed`: see `value`."""
    value = builder.value(node, mixed=mixed)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    if value.dims[-1].batch:
        raise Unsupported("its last dimension is the batch")
    try:
        rows_of(value)
    except Unsupported:
        return compact(builder, value)
    return value


def _check_weight(weight: torch.Tensor) -> None:
    if weight.dtype is not torch.float32 or weight.ndim != 2:
        raise Unsupported(f"its weight is {weight.dtype} with {weight.ndim} dimensions, not a float32 matrix")


@rule(_aten.linear.default)
def _linear(builder: PlanBuilder, node: fx.Node) -> None:
    weight = builder.tensor(node.args[1])
    _check_weight(weight)
    given: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    bias = builder.tensor(given) if given is not None else None
    x = even_rows(builder, node.args[0], mixed=True)
    out = builder.result(node, anywhere=True, like=[x])
    emit_gemm(builder, x, weight, out, bias=bias)
    builder.values[node] = out


@rule(mlp.mlp)
def _mlp(builder: PlanBuilder, node: fx.Node) -> None:
    arguments: Any = node.args
    params, layers = arguments[1], mlp.decode(arguments[2], arguments[3])
    values = [even_rows(builder, arguments[0], mixed=True)]
    for number, layer in enumerate(layers):
        weight = builder.tensor(params[layer.weight])
        last = number == len(layers) - 1
        out = widened(builder, values[-1], weight.shape[0])
        if last:
            out = builder.result(node, anywhere=True, like=values[:1])
        residual = values[layer.residual] if layer.residual >= 0 else None
        emit_layer(builder, layer, params, values[-1], out, residual)
        values.append(out)
    builder.values[node] = values[-1]


def widened(builder: PlanBuilder, value: Value, width: int) -> Value:
    """A new temporary like a value, with another last dimension."""
    return builder.temp([*value.dims[:-1], Dim(width, 1)])


def activation_vectors(builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], n: int) -> ActivationVectors:
    """The vectors of a layer's activation."""
    positions = {"SLOPE": layer.slope, "GATE_SCALE": layer.gate_scale, "GATE_SHIFT": layer.gate_shift}
    return {
        name: builder.packer.vector(builder.tensor(params[position]), n)
        for name, position in positions.items()
        if position >= 0
    }


def emit_layer(
    builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], x: Value, out: Value, residual: Value | None
) -> None:
    """Adds the steps of one layer of an MLP chain."""

    def tensor(position: int) -> torch.Tensor | None:
        return builder.tensor(params[position]) if position >= 0 else None

    weight = builder.tensor(params[layer.weight])
    n = weight.shape[0]
    vectors = activation_vectors(builder, layer, params, n)
    activation = mlp.ACTIVATIONS.index(layer.activation)
    common: dict[str, Any] = {
        "bias": tensor(layer.bias),
        "scale": tensor(layer.scale),
        "input_scale": layer.input_scale,
        "factor": tensor(layer.factor),
    }
    if layer.activation == "row-dice":
        plain = dataclasses.replace(layer, activation="none", slope=-1, gate_scale=-1, gate_shift=-1)
        raw = builder.temp(out.dims)
        emit_layer(builder, plain, params, x, raw, None)
        emit_row_dice(builder, layer, params, raw, out, residual)
        return
    if not layer.norm:
        emit_gemm(
            builder, x, weight, out, activation=activation, number=layer.number, vectors=vectors, add=residual, **common
        )
        return
    raw = builder.temp(out.dims)
    emit_gemm(builder, x, weight, raw, **common)
    norm = Norm(tensor(layer.norm_weight), tensor(layer.norm_bias), layer.norm_eps)
    emit_norm(builder, raw, out, norm, Epilogue(activation, layer.number, vectors, residual))


def emit_row_dice(
    builder: PlanBuilder, layer: mlp.Layer, params: list[fx.Node], x: Value, out: Value, residual: Value | None = None
) -> None:
    """Adds a Dice activation whose gate is normalised over each row: one norm step, which also gates its input."""
    gate_scale, gate_shift = (builder.tensor(params[p]) for p in (layer.gate_scale, layer.gate_shift))
    slope = {"SLOPE": builder.packer.vector(builder.tensor(params[layer.slope]), x.dims[-1].size)}
    epilogue = Epilogue(mlp.ACTIVATIONS.index("row-dice"), vectors=slope, residual=residual)
    emit_norm(builder, x, out, Norm(gate_scale, gate_shift, layer.number), epilogue)


@rule(cross.cross)
def _cross(builder: PlanBuilder, node: fx.Node) -> None:
    """A cross layer is a product whose epilogue multiplies by x0 and adds x."""
    arguments: Any = node.args
    params, layers = arguments[2], cross.decode(*arguments[3:])
    x0, x = even_rows(builder, arguments[0]), even_rows(builder, arguments[1])
    for number, layer in enumerate(layers):
        last = number == len(layers) - 1
        out = builder.result(node, anywhere=True) if last else builder.temp(x.dims)
        weight = builder.tensor(params[layer.weight])
        bias, scale, inner_scale, factor, inner_factor = (
            builder.tensor(params[at]) if at >= 0 else None
            for at in (layer.bias, layer.scale, layer.inner_scale, layer.factor, layer.inner_factor)
        )
        integers: dict[str, Any] = {"scale": scale, "factor": factor, "input_scale": layer.input_scale}
        if layer.kind == cross.VECTOR:
            dot = widened(builder, x, 1)
            emit_gemm(builder, x, weight.reshape(1, -1), dot)
            inputs, operations = [x0, dot, x], [Operation(Op.MUL, 0, 1), Operation(Op.ADD, -1, 2)]
            if bias is not None:
                inputs.append(builder.value(params[layer.bias]))
                inputs[-1] = Value(inputs[-1].slot, inputs[-1].offset, (Dim(bias.numel(), 1),))
                operations = [Operation(Op.MUL, 0, 1), Operation(Op.ADD, -1, 3), Operation(Op.ADD, -2, 2)]
            emit_pointwise(builder, inputs, out, operations, [])
        elif layer.kind == cross.LOW_RANK:
            inner_weight = builder.tensor(params[layer.inner])
            inner = widened(builder, x, inner_weight.shape[0])
            inner_integers: dict[str, Any] = {
                "scale": inner_scale,
                "factor": inner_factor,
                "input_scale": layer.inner_input_scale,
            }
            emit_gemm(builder, x, inner_weight, inner, **inner_integers)
            emit_gemm(builder, inner, weight, out, bias=bias, mul=x0, add=x, **integers)
        else:
            emit_gemm(builder, x, weight, out, bias=bias, mul=x0, add=x, **integers)
        x = out
    builder.values[node] = x
