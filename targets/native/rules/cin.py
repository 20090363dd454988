"""Layers of compressed interaction networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from recfx.formats.per_channel import MOST_COLUMNS
from recfx.kernels.codes import Kind, WeightFormat
from recfx.kernels.slots import CinFloat, CinInt, CinPointer, CinView
from recfx.ops import cin, mlp
from recfx.targets.native.builder import PlanBuilder, rows_of, view
from recfx.targets.native.rules.gemm import activation_vectors
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import View
from recfx.targets.native.values import Dim, Unsupported, Value


@rule(cin.cin)
def _layer(builder: PlanBuilder, node: fx.Node) -> None:
    """The result is stored as [B, D, O], which the next layer reads without a copy."""
    arguments: Any = node.args
    x0, x, params, ints, numbers, triangle = arguments
    (layer,) = mlp.decode(ints, numbers)
    weight = builder.tensor(params[layer.weight])
    outputs, products = weight.shape
    if weight.dtype is torch.int8 and products > MOST_COLUMNS:
        raise Unsupported(f"its int32 sums of {products} int8 products can overflow")
    address, format_ = builder.packer.weight(weight)
    pointers: dict[int, int] = {
        CinPointer[name]: at for name, at in activation_vectors(builder, layer, params, outputs).items()
    }
    pointers[CinPointer.WEIGHT] = address
    if layer.bias >= 0:
        pointers[CinPointer.BIAS] = builder.packer.vector(builder.tensor(params[layer.bias]), outputs)
    if format_ is WeightFormat.I8:
        pointers[CinPointer.SCALE] = builder.packer.vector(builder.tensor(params[layer.scale]), outputs)
        pointers[CinPointer.COLUMN_SUMS] = builder.packer.column_sums(weight)
    views = {CinView.MAPS: _columns(builder, x), CinView.VECTORS: _columns(builder, x0)}
    batch, _, columns = builder.shape(node)
    out = builder.temp((batch, columns, Dim(outputs, 1)))
    builder.emit(
        Kind.CIN,
        out,
        rows_of(out).runs,
        views,
        ints={
            CinInt.FORMAT: format_,
            CinInt.OUTPUTS: outputs,
            CinInt.INPUTS: products,
            CinInt.ACTIVATION: mlp.ACTIVATIONS.index(layer.activation),
            CinInt.TRIANGLE: int(bool(triangle)),
        },
        floats={CinFloat.ACTIVATION_NUMBER: layer.number, CinFloat.INPUT_SCALE: layer.input_scale},
        pointers=pointers,
    )
    builder.values[node] = Value(out.slot, out.offset, (out.dims[0], out.dims[2], out.dims[1]))


def _columns(builder: PlanBuilder, node: Any) -> View:
    """Vectors [B, n, D], of which the kernel reads one column after another."""
    value = builder.value(node)
    if builder.dtype(value) is not torch.float32:
        raise Unsupported(f"its input is {builder.dtype(value)}")
    first, vectors, columns = value.dims
    if vectors.batch or columns.batch or first.size != 1:
        raise Unsupported("it has several rows per batch row")
    return view(value, [(vectors.size, vectors.stride), (columns.size, columns.stride)])
