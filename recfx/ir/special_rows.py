"""Batches of special rows, which examples often lack: empty and full histories, first and last ids, empty and long bags, zeros, tiny and
huge numbers, NaN and infinity.

Rows of several kinds share a batch, so that few runs suffice. Ids stay within the tables that read them. Where no table is known, they
stay within the values of the example, since kernels of other libraries may not check ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.ir.batch_axes import batch_axis, pick_rows
from recfx.ir.input_roles import Roles, input_roles
from recfx.ir.jagged import is_jagged, resample, row_keys
from recfx.ir.probes import has_fixed_bags
from recfx.ir.program import Program
from recfx.ir.row_kinds import (
    EQUAL,
    FIRST,
    FLAGS_OFF,
    FLAGS_ON,
    LAST,
    LONG,
    NOTHING,
    ONE_FIRST,
    ONE_LAST,
    SpecialRows,
)
from recfx.ir.shapes import BATCH, positions

#: The name of the batches on which quantised layers may differ: a scale that covers their largest numbers rounds the others to zero.
EXTREME = "rows with tiny and huge numbers and infinities"
_ID_KINDS = (NOTHING, ONE_FIRST, ONE_LAST, EQUAL, FIRST, LAST, LONG, FLAGS_OFF, FLAGS_ON)
_NUMBERS: dict[str, float | None] = {
    "zeros": 0.0,
    "an ordinary row": None,
    "NaN everywhere": float("nan"),
    "a NaN": float("nan"),
}
#: Larger than any feature. Its square and cube, which interactions and norms compute, still fit float32.
_HUGE = 1e12
_EXTREME: dict[str, float | None] = {
    "tiny numbers": 1e-41,
    "huge numbers": _HUGE,
    "huge negative numbers": -_HUGE,
    "an ordinary row": None,
    "an infinity": float("inf"),
    "a negative infinity": -float("inf"),
}


@dataclasses.dataclass(frozen=True)
class SpecialBatch:
    """Flat inputs whose rows are special.

    Attributes:
        name: The name of the inputs.
        leaves: The flat inputs.
        kinds: The kind of each row.
        alone: Row number -> flat inputs with only this row.
    """

    name: str
    leaves: list[Any]
    kinds: tuple[str, ...]
    alone: Callable[[int], list[Any]]

    def split(self) -> list[SpecialBatch]:
        """One batch for each row; empty when there is a single row."""
        if len(self.kinds) == 1:
            return []
        return [
            SpecialBatch(f"{self.name}: {kind}", self.alone(row), (kind,), self.alone)
            for row, kind in enumerate(self.kinds)
        ]


def special_batches(program: Program, seed: int = 0) -> list[SpecialBatch]:
    """Batches of special rows for a program, with the kinds of rows that its inputs can hold."""
    if has_fixed_bags(program):
        return []
    roles = input_roles(program)
    generator = torch.Generator().manual_seed(seed)
    groups: list[tuple[str, dict[str, float | None]]] = []
    ids = [kind for kind in _ID_KINDS if _applies(kind, roles)]
    if ids:
        groups.append(("rows with special ids", dict.fromkeys(ids)))
    if roles.floats:
        groups.append(("rows with zeros and NaN", _NUMBERS))
        groups.append((EXTREME, _EXTREME))
    low, high, size = _batch_range(program)
    found: list[SpecialBatch] = []
    for name, values in groups:
        kinds = list(values)
        limit = size if high is None else high
        for start in range(0, len(kinds), max(limit, 1)):
            part = kinds[start : start + limit]
            rows = [*part, *[part[-1]] * (low - len(part))]
            leaves = SpecialRows(program, roles, rows, generator).leaves([values[kind] for kind in rows])
            found.append(SpecialBatch(name, leaves, tuple(part), _alone(program, leaves, low, roles)))
    return found


def judged(
    batches: Sequence[SpecialBatch], run: Callable[[Sequence[Any]], list[Any]]
) -> Iterator[tuple[SpecialBatch, list[Any]]]:
    """Pairs of a special batch and the outputs of `run`.

    When `run` raises on a batch, or an output has no finite number, the rows of the batch run one by one. A row is skipped when `run`
    raises on it alone.
    """
    for batch in batches:
        outputs = None
        try:
            outputs = run(batch.leaves)
        except Exception:  # noqa: BLE001 - a model may refuse made-up rows
            if len(batch.kinds) == 1:
                continue
        if outputs is not None and (len(batch.kinds) == 1 or not _is_spoiled(outputs)):
            yield batch, outputs
        else:
            yield from judged(batch.split(), run)


def _is_spoiled(outputs: Sequence[Any]) -> bool:
    """Whether some output has no finite number."""
    floats = [o for o in outputs if isinstance(o, torch.Tensor) and o.is_floating_point() and o.numel()]
    return any(not bool(o.isfinite().any()) for o in floats)


def _applies(kind: str, roles: Roles) -> bool:
    return {
        NOTHING: bool(roles.histories or roles.bags or roles.lengths),
        ONE_FIRST: bool(roles.histories or roles.bags),
        ONE_LAST: bool(roles.histories),
        EQUAL: bool(roles.histories or roles.bags),
        LONG: bool(roles.bags),
        FLAGS_OFF: bool(roles.flags),
        FLAGS_ON: bool(roles.flags),
    }.get(kind, bool(roles.ranges or roles.histories))


def _batch_range(program: Program) -> tuple[int, int | None, int]:
    """The smallest and the largest batch of special rows (None for any), and the example's batch."""
    size = program.example_batch() or 1
    if BATCH not in program.signature.dims:
        return size, size, size
    low, high = program.signature.dims[BATCH]
    return low, 64 if high is None else min(high, 64), size


def _alone(program: Program, leaves: list[Any], low: int, roles: Roles) -> Callable[[int], list[Any]]:
    return lambda row: take_rows(program, leaves, [row] * max(low, 1), roles)


def take_rows(program: Program, leaves: Sequence[Any], rows: Sequence[int], roles: Roles) -> list[Any]:
    """The given rows of flat inputs."""
    picks = torch.tensor(rows)
    drawn = {leaf: leaves[leaf][picks] for leaf in roles.batched}
    for group in roles.bags:
        drawn |= group.resample(leaves, picks.expand(group.runs, -1))
    parts, spec = pytree.tree_flatten(program.signature.nested(leaves), is_leaf=is_jagged)
    starts = positions(parts)
    for number, (part, position) in enumerate(zip(parts, starts, strict=True)):
        leaf = program.signature.leaves[position]
        axis = batch_axis(leaf)
        if is_jagged(part):
            parts[number] = resample(part, picks.expand(row_keys(part), -1))
        elif position in drawn:
            parts[number] = drawn[position]
        elif leaf.kind == "size":
            parts[number] = len(rows)
        elif axis is not None:
            parts[number] = pick_rows(part, axis, picks)
    return pytree.tree_leaves(pytree.tree_unflatten(parts, spec))
