"""A compiled model with other tensors in place of some of its tables. Regions that read them are lowered again, the others are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from recfx.driver.division import Division
from recfx.driver.parts import Parts
from recfx.driver.placed import Placed, lower_regions
from recfx.driver.plans import TRUSTED, Plans
from recfx.errors import InputError
from recfx.ir.lookup_ops import TableKey, table_key
from recfx.ir.program import Program, copy_module, get_state, set_state
from recfx.ir.region import Region, Split, split
from recfx.targets import BACKENDS, Lowered

#: Backends that read tables where they lie, so that rows which are written later are seen.
IN_PLACE = TRUSTED


def with_tables(parts: Parts, tables: Mapping[TableKey, torch.Tensor]) -> Parts:
    """The same compiled model with other tensors.

    Args:
        parts: The compiled model.
        tables: Key of a tensor of the program's state -> the tensor that takes its place, of the same dtype, sizes and strides.

    Raises:
        InputError: A backend keeps a copy of one of the tables.
    """
    made = _with_tables(parts, tables)
    if parts.one_row is not None:
        made = made.with_one_row(_with_tables(parts.one_row, tables))
    _made_ready(parts, made)
    return made


def _made_ready(before: Parts, made: Parts) -> None:
    """Makes now what calls of the former parts have needed, rather than at a call."""
    division = before.__dict__.get("division")
    if "row_plan" in before.__dict__:
        made.__dict__["row_plan"] = before.row_plan  # which depends on no table
    if isinstance(division, Division) and "side" in division.__dict__ and isinstance(made.division, Division):
        _ = made.division.side


def _with_tables(parts: Parts, tables: Mapping[TableKey, torch.Tensor]) -> Parts:
    program = _program(parts.program, tables)
    plans = parts.plans
    placed = tuple(_placed(each, program, tables) for each in plans.placed)
    again = Plans(placed, plans.bounds, plans.uses, plans.shown)
    made = Parts(again.main, parts.report, recipe=parts.recipe, plans=again)
    made.watch = parts.watch
    return made


def _program(program: Program, tables: Mapping[TableKey, torch.Tensor]) -> Program:
    module = copy_module(program.module)
    for name, tensor in program.state().items():
        other = _other(tensor, tables)
        if other is not None:
            held = torch.nn.Parameter(other, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else other
            set_state(module, name, held)
    return program.with_module(module)


def _other(tensor: torch.Tensor, tables: Mapping[TableKey, torch.Tensor]) -> torch.Tensor | None:
    return tables.get(table_key(tensor)) if tensor.layout is torch.strided else None


def _placed(placed: Placed, program: Program, tables: Mapping[TableKey, torch.Tensor]) -> Placed:
    old = placed.split
    if len(old.regions) == 1:
        found = Split(program, (Region.whole(program),), old.backends)
    else:
        assignment = placed.assignment()
        found = split(program, {node: assignment[node.name] for node in program.graph.nodes if node.name in assignment})
    reads = [_reads(region, tables) for region in old.regions]

    def lower(index: int, region: Region) -> Lowered:
        before = placed.regions[index]
        if before.backend not in IN_PLACE:
            if reads[index]:
                raise InputError(
                    f"the table takes no new rows: the {before.backend} backend keeps a copy of it",
                    where=f"table {reads[index]}",
                    hint="optimize with target='native' or 'eager'",
                )
            return before
        lowered = BACKENDS[before.backend].lower(region)
        return dataclasses.replace(lowered, left=before.left)

    return Placed.of(found, lower_regions(found, lower))


def _reads(region: Region, tables: Mapping[TableKey, torch.Tensor]) -> str | None:
    """The name of a table among `tables` that a region reads; None without one."""
    for node in region.graph.find_nodes(op="get_attr"):
        if _other(get_state(region.module, str(node.target)), tables) is not None:
            return str(node.target)
    return None
