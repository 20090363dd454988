"""einsum of two tensors, as a product of matrices or of elements; tensordot and pointwise convolutions with a constant weight."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from recfx.targets.native.abi import Kind
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules import rule
from recfx.targets.native.rules_gemm import emit_gemm, even_rows
from recfx.targets.native.rules_pointwise import MUL, Operation, emit_pointwise
from recfx.targets.native.values import Dim, Unsupported, Value, merge

_aten = torch.ops.aten
_LETTERS = re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)")


@rule(_aten.einsum.default)
def _einsum(builder: PlanBuilder, node: fx.Node) -> None:
    """Letters of both inputs that the output lacks are summed over; without any, elements are multiplied."""
    given: Any = node.args
    found = _LETTERS.fullmatch(str(given[0]).replace(" ", ""))
    if found is None or len(given[1]) != 2 or any(len(set(part)) != len(part) for part in found.groups()):
        raise Unsupported("an einsum of other than two tensors with plain letters")
    left, right, output = found.groups()
    values = [builder.value(operand) for operand in given[1]]
    if any(builder.dtype(value) is not torch.float32 for value in values):
        raise Unsupported("it multiplies other than float32")
    held = [dict(zip(letters, value.dims, strict=True)) for letters, value in zip((left, right), values, strict=True)]
    if set(output) - set(left) - set(right) or (set(left) ^ set(right)) - set(output):
        raise Unsupported("an einsum that sums over one tensor alone")
    summed = [letter for letter in left if letter not in output]
    if not summed:
        _emit_elements(builder, node, values, held, output)
    else:
        _emit_matrices(builder, node, values, held, output, summed)


def _arranged(value: Value, dims: dict[str, Dim], letters: str) -> Value:
    """A value with its dimensions in the order of some letters; those it lacks have one element."""
    return Value(value.slot, value.offset, tuple(dims.get(letter, Dim(1, 0)) for letter in letters))


def _emit_elements(
    builder: PlanBuilder, node: fx.Node, values: list[Value], held: list[dict[str, Dim]], output: str
) -> None:
    sides = [_arranged(value, dims, output) for value, dims in zip(values, held, strict=True)]
    out = builder.result(node, anywhere=True)
    emit_pointwise(builder, sides, out, [Operation(MUL, 0, 1)], [])
    builder.values[node] = out


def _emit_matrices(
    builder: PlanBuilder,
    node: fx.Node,
    values: list[Value],
    held: list[dict[str, Dim]],
    output: str,
    summed: list[str],
) -> None:
    """[outer, rows, summed] times [outer, summed, columns]: rows are the left's own letters, columns the right's."""
    shared = [letter for letter in held[0] if letter in held[1]]
    if any((held[0][x].size, held[0][x].batch) != (held[1][x].size, held[1][x].batch) for x in shared):
        raise Unsupported("a letter has one element on one side and several on the other")
    both = [letter for letter in output if letter in shared]
    rows = [letter for letter in output if letter not in held[1]]
    columns = [letter for letter in output if letter not in held[0]]
    if any(held[side][letter].batch for side, letters in ((0, rows + summed), (1, columns)) for letter in letters):
        raise Unsupported("a matrix runs over the batch")
    sides = [
        _matrix(builder, value, dims, (both, first, last))
        for value, dims, first, last in zip(values, held, (rows, summed), (summed, columns), strict=True)
    ]
    sizes = held[0] | held[1]
    shape = [Dim(sizes[letter].size, 0, sizes[letter].batch) for letter in (*both, *rows, *columns)]
    made = builder.temp(shape)
    dims = dict(zip((*both, *rows, *columns), made.dims, strict=True))
    runs = [_run(made.dims[a:b]) for a, b in _bounds(len(both), len(rows), len(columns))]
    assert all(run is not None for run in runs)  # a new temporary lies evenly
    builder.emit(Kind.BMM, made, [run for run in runs if run is not None], dict(enumerate(sides)), floats=[1.0])
    builder.values[node] = _arranged(made, dims, output)


def _matrix(
    builder: PlanBuilder, value: Value, dims: dict[str, Dim], parts: tuple[list[str], list[str], list[str]]
) -> Any:
    """A view [outer, rows, columns], copied where the letters of a part do not lie evenly."""
    ordered = _arranged(value, dims, "".join(letter for part in parts for letter in part))
    for attempt in (ordered, None):
        chosen = builder.compact(ordered) if attempt is None else attempt
        runs = [_run(chosen.dims[a:b]) for a, b in _bounds(*map(len, parts))]
        if all(run is not None for run in runs):
            return view(chosen, [run for run in runs if run is not None])
    raise Unsupported("its matrices do not lie evenly")


def _bounds(*lengths: int) -> list[tuple[int, int]]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return list(zip([0, *ends], ends, strict=False))


def _run(dims: tuple[Dim, ...]) -> tuple[int, int] | None:
    """Some dimensions as one run, None where they do not lie evenly."""
    runs = merge(dims)
    if len(runs) > 1:
        return None
    return runs[0] if runs else (1, 0)


@rule(_aten.tensordot.default)
def _tensordot(builder: PlanBuilder, node: fx.Node) -> None:
    """The last dimension against the first of a constant matrix: a linear layer."""
    x, weight_node, left, right = node.args[:4]
    weight = builder.tensor(weight_node)
    rank = x.meta["val"].ndim if isinstance(x, fx.Node) else 0
    if weight.ndim != 2 or weight.dtype is not torch.float32 or len(left) != 1 or len(right) != 1:  # type: ignore[arg-type]
        raise Unsupported("it sums over several dimensions, or its weight is no float32 matrix")
    if int(left[0]) % rank != rank - 1:  # type: ignore[index, arg-type]
        raise Unsupported("it sums over another dimension than the last")
    rows = weight.T if int(right[0]) % 2 == 0 else weight  # type: ignore[index, arg-type]
    out = builder.result(node, anywhere=True)
    emit_gemm(builder, even_rows(builder, x), rows.contiguous(), out)
    builder.values[node] = out


@rule(_aten.conv1d.default)
def _conv1d(builder: PlanBuilder, node: fx.Node) -> None:
    """A convolution of width 1 mixes channels place by place: (x^T W^T + b)^T."""
    arguments: Any = [*node.args, *[None] * (7 - len(node.args))]
    x, weight_node, bias_node, stride, padding, _, groups = arguments
    weight = builder.tensor(weight_node)
    plain = all(v in (None, d, [d], (d,)) for v, d in ((stride, 1), (padding, 0), (groups, 1)))
    if weight.shape[-1] != 1 or weight.dtype is not torch.float32 or not plain or x.meta["val"].ndim != 3:
        raise Unsupported("a convolution wider than one element, with strides, padding or groups")
    value = builder.value(x)
    if builder.dtype(value) is not torch.float32 or any(d.batch for d in value.dims[1:]):
        raise Unsupported("its channels run over the batch, or are not float32")
    turned = builder.compact(Value(value.slot, value.offset, (value.dims[0], value.dims[2], value.dims[1])))
    out = builder.temp((*turned.dims[:-1], Dim(weight.shape[0], 1)))
    bias = None if bias_node is None else builder.tensor(bias_node)
    emit_gemm(builder, turned, weight[:, :, 0].contiguous(), out, bias=bias)
    builder.values[node] = Value(out.slot, out.offset, (out.dims[0], out.dims[2], out.dims[1]))
