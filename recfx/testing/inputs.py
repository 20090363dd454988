"""Random inputs for a program: ids inside the tables they are looked up in, whole bags, and special numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from recfx.ir.leaves import LeafSpec
from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH
from recfx.ir.sizes import evaluate_size
from recfx.ops import lookup

_aten = torch.ops.aten
_FREE_IDS = 8

#: Numbers that special batches hold in floating-point inputs.
ORDINARY_SPECIALS = (float("nan"), 0.0, -0.0, 1.0, -1.0)
EXTREME_SPECIALS = (*ORDINARY_SPECIALS, float("inf"), float("-inf"), 3e38, -3e38, 1e-40, -1e-40)

#: Numbers of rows of which one is drawn for the largest trial batch.
LARGE_BATCHES = (9, 17, 33, 65, 130, 257, 1031)


def random_leaves(program: Program, batch: int, generator: torch.Generator) -> list[Any]:
    """Random flat inputs with `batch` rows; other free dimensions are one, two, ... longer, so that all sizes differ.

    Numbers lie in [-2, 2], so that nothing overflows. Integers are ids below the number of rows of every table in which they are looked
    up; a column is drawn uniformly, from the first and last row only, or as one id everywhere. Offsets of bags rise from 0 to the number
    of ids.
    """
    bounds, bags = id_bounds(program), offsets_of_bags(program)
    sizes = {name: batch + place for place, name in enumerate(sorted(program.signature.dims, key=lambda n: n != BATCH))}
    leaves: list[Any] = []
    for spec, node in zip(program.signature.leaves, program.placeholders(), strict=True):
        if spec.kind == "constant":
            leaves.append(spec.value)
            continue
        shape = [_size(s, sizes) for s in spec.shape]
        if node in bags:
            ids, last = bags[node]
            leaves.append(_offsets(shape[0], _size(_first_size(program, ids), sizes), last, spec, generator))
        else:
            leaves.append(_leaf(spec, shape, bounds.get(node, {}), generator))
    return leaves


def trial_inputs(
    program: Program, generator: torch.Generator, *, specials: tuple[float, ...]
) -> Iterator[tuple[str, list[Any]]]:
    """The batches that two programs are compared on: one row, a few, many; special numbers, zeros, halves, negative numbers.

    Args:
        program: The program.
        generator: Source of all numbers.
        specials: Numbers that replace about a quarter of the elements in the special batches.
    """
    low, high = program.signature.dims.get(BATCH, (1, 1))

    def leaves(rows: int) -> list[Any]:
        return random_leaves(program, max(rows, low) if high is None else min(max(rows, low), high), generator)

    large = LARGE_BATCHES[int(torch.randint(len(LARGE_BATCHES), (1,), generator=generator))]
    for rows in (1, 2, 5, large):
        yield f"{rows} row(s)", leaves(rows)
    for rows in (1, 7):
        yield f"{rows} row(s) of special numbers", [_with_specials(leaf, specials, generator) for leaf in leaves(rows)]
    yield "zeros", [torch.zeros_like(x) if _is_float(x) else x for x in leaves(3)]
    yield (
        "halves",
        [(x * 2).round() / 2 if _is_float(x) else x for x in leaves(6)],
    )  # ties, and numbers equal to constants
    yield "negative numbers", [-x.abs() - 0.1 if _is_float(x) else x for x in leaves(4)]


def id_bounds(program: Program) -> dict[fx.Node, dict[int | None, int]]:
    """Placeholder -> column, or None for all columns -> rows of the smallest table in which its values are looked up."""
    bounds: dict[fx.Node, dict[int | None, int]] = {}

    def at_most(source: fx.Node | None, column: int | None, rows: int) -> None:
        if source is not None:
            held = bounds.setdefault(source, {})
            held[column] = min(rows, held.get(column, rows))

    for node in program.graph.nodes:
        if node.target in (*EMBEDDING_BAGS, _aten.embedding.default):
            source, column = _source(node.args[1])
            at_most(source, column, int(node.args[0].meta["val"].shape[0]))
        elif node.target is lookup.grouped_lookup:
            for feature in lookup.decode(node.args[5]):
                source, column = _source(node.args[1][feature.ids])
                rows = int(node.args[0][feature.table].meta["val"].shape[0]) - feature.base
                for at in range(feature.column, feature.column + max(feature.length, 1)):
                    at_most(source, column if feature.length < 0 or column is not None else at, rows)
    return bounds


def offsets_of_bags(program: Program) -> dict[fx.Node, tuple[fx.Node, bool]]:
    """Placeholder that holds offsets of bags -> the node with their ids, and whether the offsets end with the number of ids."""
    found: dict[fx.Node, tuple[fx.Node, bool]] = {}
    for node in program.graph.nodes:
        if node.target in EMBEDDING_BAGS and isinstance(node.args[2], fx.Node) and node.args[2].op == "placeholder":
            found[node.args[2]] = (node.args[1], bool(node.args[7]) if len(node.args) > 7 else False)
        elif node.target is lookup.grouped_lookup:
            for feature in lookup.decode(node.args[5]):
                if feature.offsets >= 0 and node.args[2][feature.offsets].op == "placeholder":
                    found[node.args[2][feature.offsets]] = (node.args[1][feature.ids], feature.last)
    return found


def _leaf(spec: LeafSpec, shape: list[int], bounds: dict[int | None, int], generator: torch.Generator) -> torch.Tensor:
    assert spec.dtype is not None
    if spec.dtype.is_floating_point:
        return (torch.rand(shape, generator=generator) * 4 - 2).to(spec.dtype)
    if spec.dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    every = bounds.get(None, _FREE_IDS if not bounds else 2**31)
    if len(shape) != 2:
        return _ids(shape, min([every, *bounds.values()]), generator).to(spec.dtype)
    tops = [min(every, bounds.get(c, every if every < 2**31 else _FREE_IDS)) for c in range(shape[1])]
    return torch.stack([_ids(shape[:1], top, generator) for top in tops], 1).to(spec.dtype)


def _ids(shape: list[int], rows: int, generator: torch.Generator) -> torch.Tensor:
    kind = int(torch.randint(6, (1,), generator=generator))
    if kind == 0:
        return torch.full(shape, int(torch.randint(rows, (1,), generator=generator)))
    if kind in (1, 2):
        return torch.randint(2, shape, generator=generator) * (rows - 1)
    return torch.randint(rows, shape, generator=generator)


def _offsets(count: int, ids: int, last: bool, spec: LeafSpec, generator: torch.Generator) -> torch.Tensor:
    """Random starts of bags; some bags are empty, and one is often long."""
    starts = torch.randint(ids + 1, (count,), generator=generator).sort().values
    starts[0] = 0
    if last:
        starts[-1] = ids
    return starts.to(spec.dtype)


def _size(size: int | str, sizes: dict[str, int]) -> int:
    value = size if isinstance(size, int) else evaluate_size(size, sizes)
    assert value is not None
    return value


def _first_size(program: Program, ids: fx.Node) -> Any:
    source, _ = _source(ids)
    places = dict(zip(program.placeholders(), program.signature.leaves, strict=True))
    assert source is not None
    return places[source].shape[0]


def _with_specials(leaf: Any, specials: tuple[float, ...], generator: torch.Generator) -> Any:
    if not _is_float(leaf):
        return leaf
    chosen = torch.tensor(specials, dtype=leaf.dtype)[torch.randint(len(specials), leaf.shape, generator=generator)]
    return torch.where(torch.rand(leaf.shape, generator=generator) < 0.25, chosen, leaf)


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _source(node: Any) -> tuple[fx.Node | None, int | None]:
    """The placeholder that ids are read from by operators that only move values, and its column if the ids are one column of it."""
    column: int | None = None
    while isinstance(node, fx.Node) and node.op != "placeholder":
        moved = node.target is operator.getitem or node.target in _MOVES
        if node.op != "call_function" or not moved:
            return None, None
        plain = (
            node.target is _aten.select.int and isinstance(node.args[0], fx.Node) and node.args[0].op == "placeholder"
        )
        position: Any = node.args[2] if plain and node.args[1] == 1 else None
        column = position
        node = node.args[0]
    return (node, column) if isinstance(node, fx.Node) else (None, None)


_MOVES = {
    *(_aten.select.int, _aten.slice.Tensor, _aten.view.default, _aten.reshape.default, _aten.flatten.using_ints),
    *(_aten.unbind.int, _aten.split.Tensor, _aten.chunk.default, _aten.to.dtype, _aten.contiguous.default),
    *(_aten.clone.default, _aten.alias.default, _aten.transpose.int, _aten.permute.default, _aten.squeeze.dim),
    _aten.unsqueeze.default,
}
