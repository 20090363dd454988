"""Probes: generated inputs for the comparison of programs, like the example but with other values and other batch sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.ir.batch_axes import Axis, batch_axis, pick_rows
from recfx.ir.jagged import is_jagged, leaf_count, resample, reversed_ids, row_keys, rows
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH, positions

PROBE_BATCHES = (1, 2, 7)
#: A call of the user's model on the example that takes more seconds is long, so that checks take fewer rows.
LONG_CALL = 0.25
#: The rows of such an example with which checks begin, and the fewest rows of the larger batch of their probes.
FEW_ROWS, _FEWEST = 2, 3


def is_long(seconds: float) -> bool:
    """Whether a call on the example that takes some seconds is long."""
    return seconds > LONG_CALL


def probes(program: Program, seed: int = 0) -> list[tuple[str, list[Any]]]:
    """Named inputs like the example, at batches of 1, 2, 7 and the example's size, followed by the program's further cases.

    If a call on the example takes long, the batches are one row and as many rows as take `LONG_CALL` seconds: kernels compute a few rows in
    another way than many.
    The values of each column are drawn from the same column of the example, so ids stay in range and flags stay flags. Bags are drawn as
    a whole. When the batch is fixed, rows change places instead.
    """
    signature = program.signature
    more = [(f"further inputs {number}", list(case)) for number, case in enumerate(program.cases)]
    if BATCH not in signature.dims or has_fixed_bags(program):
        return [("shuffled values", _shuffle_static(program, seed)), *more]
    low, high = signature.dims[BATCH]
    size = _rows(program) or program.example_batch() or 1
    generator = torch.Generator().manual_seed(seed)
    found = []
    usual = (*PROBE_BATCHES, size) if program.long_call is None else (1, _affordable(size, program.long_call))
    for batch in dict.fromkeys((*usual, *program.doubtful)):
        batch = max(batch, low) if high is None else min(max(batch, low), high)
        found.append((f"reshuffled inputs at batch {batch}", reshuffle(program, batch, generator)))
    return found + more


def _affordable(size: int, seconds: float) -> int:
    """As many of the rows of an example, which take some seconds, as take `LONG_CALL` seconds."""
    return max(min(_FEWEST, size), int(size * LONG_CALL / max(seconds, LONG_CALL)))


def checked_example(program: Program) -> tuple[str, list[Any]]:
    """The inputs with which checks begin, with their name: the example, or its first rows if a call on the example takes long."""
    few = first_rows(program) if program.long_call is not None else None
    return ("the example inputs", list(program.example)) if few is None else ("the first rows of the example", few)


def first_rows(program: Program, count: int = FEW_ROWS) -> list[Any] | None:
    """The first rows of the example.

    Args:
        program: The program.
        count: How many rows.

    Returns:
        Flat inputs; None if the example has no more rows, the program does not take so few, or the rows cannot be cut out: of bags, and of
        inputs with other free sizes than the batch.
    """
    signature = program.signature
    low, high = signature.dims.get(BATCH, (count + 1, 0))
    size = _rows(program) or program.example_batch() or 0
    if program.bags or not low <= count < size or (high is not None and count > high):
        return None
    found: list[Any] = []
    for leaf, spec in zip(program.example, signature.leaves, strict=True):
        axis = batch_axis(spec)
        if sum(isinstance(side, str) for side in spec.shape) != (axis is not None):
            return None
        cut = leaf if axis is None else pick_rows(leaf, axis, torch.arange(count))
        found.append(count if spec.kind == "size" else cut)
    return found


def reshuffle(program: Program, batch: int, generator: torch.Generator) -> list[Any]:
    """Inputs of a batch size. Each column is drawn with replacement from the example's column; bags are drawn as a whole."""
    leaves = list(program.example)
    parts, spec = pytree.tree_flatten(program.signature.nested(leaves), is_leaf=is_jagged)
    drawn_bags: dict[int, torch.Tensor] = {}
    for group in program.bags:
        picks = torch.randint(group.batch(leaves), (group.runs, batch), generator=generator)
        drawn_bags |= group.resample(leaves, picks)
    drawn = []
    for part, position in zip(parts, positions(parts), strict=True):
        spec_of = program.signature.leaves[position]
        shape = spec_of.shape
        if is_jagged(part):
            part = resample(part, torch.randint(rows(part), (row_keys(part), batch), generator=generator))
        elif position in drawn_bags:
            part = drawn_bags[position]
        elif spec_of.kind == "size":
            part = batch
        elif shape and shape[0] == BATCH:
            part = _resample_columns(part, batch, generator)
        elif (axis := batch_axis(spec_of)) is not None:
            rows_held = part.shape[axis.dim] // axis.step
            part = pick_rows(part, axis, torch.randint(rows_held, (batch,), generator=generator))
        drawn.append(part)
    return pytree.tree_leaves(pytree.tree_unflatten(drawn, spec))


def _rows(program: Program) -> int | None:
    """The batch of the example when no input has it in dimension 0; None otherwise."""
    axes = [batch_axis(spec) for spec in program.signature.leaves]
    if program.bags or any(axis == Axis(0) for axis in axes):
        return None
    found = next(((leaf, axis) for leaf, axis in zip(program.example, axes, strict=True) if axis is not None), None)
    return None if found is None else int(found[0].shape[found[1].dim]) // found[1].step


def has_fixed_bags(program: Program) -> bool:
    """Whether some bags have a fixed number of ids."""
    leaves = program.signature.leaves
    return any(
        isinstance(leaves[leaf].shape[0 if stream.row is None else 1], int)
        for bags in program.bags
        for stream in bags.streams
        for leaf in stream.leaves
    )


def _resample_columns(leaf: torch.Tensor, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Draws `batch` values, with replacement, for each column on its own."""
    size, columns = leaf.shape[0], leaf.reshape(leaf.shape[0], -1)
    picks = torch.randint(size, (batch, columns.shape[1]), generator=generator).to(leaf.device)
    return columns.gather(0, picks).reshape(batch, *leaf.shape[1:])


def _shuffle_static(program: Program, seed: int) -> list[Any]:
    """The example with every row moved to another place; a random permutation could leave some rows in place."""
    parts, spec = pytree.tree_flatten(program.signature.nested(program.example), is_leaf=is_jagged)
    starts = positions(parts)
    jagged = {
        at + i for part, at in zip(parts, starts, strict=True) if is_jagged(part) for i in range(leaf_count(part))
    }
    example = pytree.tree_leaves(pytree.tree_unflatten([reversed_ids(p) if is_jagged(p) else p for p in parts], spec))
    bounds = {bags.bounds for bags in program.bags}
    ids = {leaf for bags in program.bags for leaf in bags.members}
    return [
        leaf.roll(1 + seed % (leaf.shape[0] - 1), 0)
        if isinstance(leaf, torch.Tensor)
        and position not in bounds | jagged
        and (leaf.ndim > 1 or position in ids)
        and leaf.shape[0] > 1
        else leaf
        for position, leaf in enumerate(example)
    ]
