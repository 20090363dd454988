"""einsum, two tensors at a time, as a product of matrices or of elements; tensordot with a constant."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.kernels.codes import Kind, Op
from recfx.kernels.slots import BmmFloat, BmmView
from recfx.targets.native.builder import PlanBuilder, view
from recfx.targets.native.rules.copies import compact
from recfx.targets.native.rules.gemm import emit_gemm, even_rows
from recfx.targets.native.rules.pointwise import emit_pointwise
from recfx.targets.native.rules.registry import rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Dim, Unsupported, Value, contiguous, merge

_aten = torch.ops.aten
_LETTERS = re.compile(r"([a-zA-Z]+(?:,[a-zA-Z]+)+)->([a-zA-Z]+)")

#: A tensor with a letter for each of its dimensions.
_Lettered = tuple[str, Value]


@rule(_aten.einsum.default)
def _einsum(builder: PlanBuilder, node: fx.Node) -> None:
    """Multiplies two tensors at a time, from the left as torch does. Letters that no later operand or output has are summed over."""
    given: Any = node.args
    found = _LETTERS.fullmatch(str(given[0]).replace(" ", ""))
    parts = found.group(1).split(",") if found else []
    if found is None or len(parts) != len(given[1]) or any(len(set(p)) != len(p) for p in (*parts, found.group(2))):
        raise Unsupported("it has one operand, an ellipsis or repeated letters")
    values = [builder.value(operand) for operand in given[1]]
    if any(builder.dtype(value) is not torch.float32 for value in values):
        raise Unsupported("it multiplies tensors that are not float32")
    operands = list(zip(parts, values, strict=True))
    while len(operands) > 2:
        left, right, *rest = operands
        read = set(found.group(2)).union(*(letters for letters, _ in rest))
        kept = "".join(letter for letter in dict.fromkeys(left[0] + right[0]) if letter in read)
        operands = [(kept, _contract(builder, left, right, kept, None)), *rest]
    builder.values[node] = _contract(builder, operands[0], operands[1], found.group(2), node)


def _contract(builder: PlanBuilder, left: _Lettered, right: _Lettered, output: str, node: fx.Node | None) -> Value:
    """The product of two tensors: of matrices if letters are summed over, otherwise of elements. `node` gives the result, if it is set."""
    held = [dict(zip(letters, value.dims, strict=True)) for letters, value in (left, right)]
    if set(output) - held[0].keys() - held[1].keys() or (held[0].keys() ^ held[1].keys()) - set(output):
        raise Unsupported("it sums over a letter of only one operand")
    batches = {letter for dims in held for letter, dim in dims.items() if dim.batch}
    if len(batches) > 1:
        raise Unsupported("two of its dimensions are batches")
    values = [left[1], right[1]]
    summed = [letter for letter in left[0] if letter not in output]
    if not summed:
        return _emit_elements(builder, node, values, held, output)
    if any((held[0] | held[1])[letter].batch for letter in summed):
        raise Unsupported("it sums over the batch")
    shared = held[0].keys() & held[1].keys()
    if any((held[0][x].size, held[0][x].batch) != (held[1][x].size, held[1][x].batch) for x in shared):
        raise Unsupported("a letter has size 1 in one operand and another size in the other")
    for side in (1, 0):
        weight = builder.slots[values[side].slot].data
        if weight is not None and shared == set(summed) and not builder.slots[values[1 - side].slot].once:
            return _emit_linear(builder, values[1 - side], held[1 - side], (weight, values[side], held[side]), output)
    return _emit_matrices(builder, values, held, output, summed)


def _arranged(value: Value, dims: dict[str, Dim], letters: str) -> Value:
    """A value with its dimensions in the order of the letters. A letter that it lacks has one element."""
    return Value(value.slot, value.offset, tuple(dims.get(letter, Dim(1, 0)) for letter in letters))


def _emit_elements(
    builder: PlanBuilder, node: fx.Node | None, values: list[Value], held: list[dict[str, Dim]], output: str
) -> Value:
    sides = [_arranged(value, dims, output) for value, dims in zip(values, held, strict=True)]
    sizes = held[0] | held[1]
    out = builder.result(node, anywhere=True) if node is not None else builder.temp([sizes[x] for x in output])
    emit_pointwise(builder, sides, out, [Operation(Op.MUL, 0, 1)], [])
    return out


def _emit_matrices(
    builder: PlanBuilder, values: list[Value], held: list[dict[str, Dim]], output: str, summed: list[str]
) -> Value:
    """[outer, rows, summed] times [outer, summed, columns]: rows are letters of only the left side, columns those of only the right side.

    The batch is an outer dimension. A side that does not have it is the same matrix for every row.
    """
    sizes = held[0] | held[1]
    both = [letter for letter in output if all(letter in dims for dims in held) or sizes[letter].batch]
    for dims in held:
        dims.update({letter: Dim(sizes[letter].size, 0, True) for letter in both if letter not in dims})
    rows = [letter for letter in output if letter not in held[1]]
    columns = [letter for letter in output if letter not in held[0]]
    sides = [
        _matrix(builder, value, dims, (both, first, last))
        for value, dims, first, last in zip(values, held, (rows, summed), (summed, columns), strict=True)
    ]
    shape = [Dim(sizes[letter].size, 0, sizes[letter].batch) for letter in (*both, *rows, *columns)]
    made = builder.temp(shape)
    dims = dict(zip((*both, *rows, *columns), made.dims, strict=True))
    runs = [_run(made.dims[a:b]) for a, b in _bounds(len(both), len(rows), len(columns))]
    assert all(run is not None for run in runs)  # a new temporary is contiguous
    views = dict(zip((BmmView.LEFT, BmmView.RIGHT), sides, strict=True))
    builder.emit(Kind.BMM, made, [run for run in runs if run is not None], views, floats={BmmFloat.FACTOR: 1.0})
    return _arranged(made, dims, output)


def _emit_linear(
    builder: PlanBuilder,
    value: Value,
    dims: dict[str, Dim],
    weight: tuple[torch.Tensor, Value, dict[str, Dim]],
    output: str,
) -> Value:
    """A tensor times a constant that shares only the summed letters with it: a linear layer over the tensor's other letters."""
    data, place, held = weight
    summed = [letter for letter in held if letter in dims]
    rows, columns = ([letter for letter in side if letter not in summed] for side in (dims, held))
    ordered = [held[letter] for letter in (*columns, *summed)]
    matrix = data.reshape(-1).as_strided([d.size for d in ordered], [d.stride for d in ordered], place.offset)
    depth = math.prod(held[letter].size for letter in summed)
    turned = _arranged(value, dims, "".join([*rows, *summed]))
    if _run(turned.dims[len(rows) :]) not in ((depth, 1), (1, 0)) or _run(turned.dims[: len(rows)]) is None:
        turned = compact(builder, turned)
    x = Value(turned.slot, turned.offset, (*turned.dims[: len(rows)], Dim(depth, 1)))
    lead = [Dim(dims[letter].size, 0, dims[letter].batch) for letter in rows]
    made = builder.temp([*lead, *(Dim(held[letter].size, 0) for letter in columns)])
    flat = contiguous(made.slot, [*lead, Dim(math.prod(held[letter].size for letter in columns), 0)])
    emit_gemm(builder, x, matrix.reshape(-1, depth).contiguous(), flat)
    return _arranged(made, dict(zip((*rows, *columns), made.dims, strict=True)), output)


def _matrix(
    builder: PlanBuilder, value: Value, dims: dict[str, Dim], parts: tuple[list[str], list[str], list[str]]
) -> Any:
    """A view [outer, rows, columns], copied if the letters of a part are not evenly spaced."""
    ordered = _arranged(value, dims, "".join(letter for part in parts for letter in part))
    for attempt in (ordered, None):
        chosen = compact(builder, ordered) if attempt is None else attempt
        runs = [_run(chosen.dims[a:b]) for a, b in _bounds(*map(len, parts))]
        if all(run is not None for run in runs):
            return view(chosen, [run for run in runs if run is not None])
    raise Unsupported("its matrices are not evenly spaced")


def _bounds(*lengths: int) -> list[tuple[int, int]]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return list(zip([0, *ends], ends, strict=False))


def _run(dims: tuple[Dim, ...]) -> tuple[int, int] | None:
    """The dimensions as one run; None if they are not evenly spaced."""
    runs = merge(dims)
    if len(runs) > 1:
        return None
    return runs[0] if runs else (1, 0)


@rule(_aten.tensordot.default)
def _tensordot(builder: PlanBuilder, node: fx.Node) -> None:
    """The last dimension of a tensor times a constant matrix: a linear layer."""
    x, weight_node, left, right = *node.args[:2], items_of(node, 2), items_of(node, 3)
    weight = builder.tensor(weight_node)
    rank = x.meta["val"].ndim if isinstance(x, fx.Node) else 0
    if weight.ndim != 2 or weight.dtype is not torch.float32 or len(left) != 1 or len(right) != 1:
        raise Unsupported("it sums over several dimensions, or its weight is not a float32 matrix")
    if int(left[0]) % rank != rank - 1:
        raise Unsupported("it sums over another dimension than the last")
    rows = weight.T if int(right[0]) % 2 == 0 else weight
    out = builder.result(node, anywhere=True)
    emit_gemm(builder, even_rows(builder, x), rows.contiguous(), out)
    builder.values[node] = out
