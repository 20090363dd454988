"""Special rows: ordinary rows drawn from the example, each changed in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from recfx.ir.bags import Bags
from recfx.ir.input_roles import Roles
from recfx.ir.probes import reshuffle
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH

#: The number of ids in a long bag: more than a block of any kernel, and not a multiple of a block.
_LONG = 203

NOTHING, ONE_FIRST, ONE_LAST, EQUAL, FIRST, LAST, LONG, FLAGS_OFF, FLAGS_ON = (
    "empty histories and bags",
    "histories of one id at the front",
    "histories of one id at the end",
    "equal ids",
    "first rows of tables",
    "last rows of tables",
    "long bags",
    "no flag set",
    "all flags set",
)


class SpecialRows:
    """Draws ordinary rows and makes each of them special.

    Args:
        program: The program.
        roles: The roles of its inputs.
        kinds: The kind of each row.
        generator: Source of the draws.
    """

    def __init__(self, program: Program, roles: Roles, kinds: Sequence[str], generator: torch.Generator) -> None:
        self._roles, self._kinds, self._generator = roles, kinds, generator
        if BATCH in program.signature.dims:
            self._leaves = reshuffle(program, len(kinds), generator)
        else:
            self._leaves = list(program.example)
        for leaf in roles.batched:
            self._leaves[leaf] = self._leaves[leaf].clone()
        for group in roles.bags:
            for leaf, drawn in self._bags(program, group).items():
                self._leaves[leaf] = drawn

    def leaves(self, values: Sequence[float | None]) -> list[Any]:
        """The flat inputs; `values` holds the new number of each row's measurements, None to keep them."""
        for row, (kind, number) in enumerate(zip(self._kinds, values, strict=True)):
            for leaf in sorted(self._roles.batched):
                self._set_ids(leaf, row, kind)
            self._set_flags(row, kind)
            self._set_lengths(row, kind)
            if number is not None:
                self._set_numbers(row, kind, number)
        return self._leaves

    def _bags(self, program: Program, group: Bags) -> dict[int, torch.Tensor]:
        """Bags with the lengths and ids that the kinds of the rows require."""
        example = program.example
        free = BATCH in program.signature.dims
        lengths = group.lengths(self._leaves if free else example).clone()
        for row, kind in enumerate(self._kinds):
            if free and kind in (NOTHING, ONE_FIRST, ONE_LAST, LONG):
                lengths[:, row] = {NOTHING: 0, LONG: _LONG}.get(kind, 1)
            elif free:
                lengths[:, row].clamp_(min=1)
        places = self._places(group, group.lengths(example), lengths)
        drawn = group.take(example, lengths, places)
        per_stream = group.runs // len(group.streams)
        rows = torch.arange(lengths.shape[1]).repeat(group.runs).reshape(group.runs, -1)
        for number, stream in enumerate(group.streams):
            part = slice(number * per_stream, (number + 1) * per_stream)
            own = lengths[part].reshape(-1)
            row_of = torch.repeat_interleave(rows[part].reshape(-1), own)
            run_of = torch.repeat_interleave(
                torch.arange(part.start, part.stop).unsqueeze(1).expand_as(lengths[part]).reshape(-1), own
            )
            row_of, run_of = (group.in_leaf_order(lengths[part], entries) for entries in (row_of, run_of))
            for leaf in stream.leaves:
                values = drawn[leaf] if stream.row is None else drawn[leaf][stream.row]
                self._set_bag_ids(leaf, values, row_of, run_of)
        return drawn

    def _places(self, group: Bags, held: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Draws ids from the example: for each stream their places, each in the same run."""
        found = []
        for own, wanted in zip(held.chunk(len(group.streams)), lengths.chunk(len(group.streams)), strict=True):
            totals = own.sum(1)
            starts = totals.cumsum(0) - totals
            parts = []
            for start, total, count in zip(starts.tolist(), totals.tolist(), wanted.sum(1).tolist(), strict=True):
                drawn = torch.randint(max(total, 1), (count,), generator=self._generator)
                parts.append(drawn + start if total else torch.full((count,), -1))
            found.append(torch.cat(parts))
        return found

    def _set_bag_ids(self, leaf: int, values: torch.Tensor, row_of: torch.Tensor, run_of: torch.Tensor) -> None:
        if values.is_floating_point() or values.ndim > 1:
            return
        ranges = self._roles.ranges.get(leaf)
        inside = values[: len(row_of)]
        for row, kind in enumerate(self._kinds):
            here = row_of == row
            if kind not in (EQUAL, FIRST, LAST) or not bool(here.any()):
                continue
            if kind is EQUAL:
                for run in sorted(set(run_of[here].tolist())):
                    bag = here & (run_of == run)
                    inside[bag] = inside[bag][0].clone()
            elif ranges is not None:
                bound = (ranges.low if kind is FIRST else ranges.high)[run_of[here]]
                known = ranges.known[run_of[here]]
                inside[here] = torch.where(known, bound, inside[here].long()).to(inside.dtype)

    def _set_ids(self, leaf: int, row: int, kind: str) -> None:
        held, ranges = self._leaves[leaf], self._roles.ranges.get(leaf)
        values = held[row].reshape(-1).clone()
        if leaf in self._roles.histories and kind in (NOTHING, ONE_FIRST, ONE_LAST, EQUAL):
            values = _history(kind, held[row], self._roles.histories[leaf])
        elif ranges is not None and kind in (NOTHING, FIRST, LAST):
            bound = ranges.high if kind is LAST else ranges.low.clamp(min=0).minimum(ranges.high)
            if kind is NOTHING:
                bound = ranges.padding.where(ranges.padding >= ranges.low.clamp(min=0), bound)
            values = torch.where(ranges.known, bound.to(values.dtype), values)
        elif not held.is_floating_point() and held.dtype is not torch.bool and kind in (FIRST, LAST):
            columns = held.reshape(held.shape[0], -1)
            values = columns.amin(0) if kind is FIRST else columns.amax(0)
        held[row] = values.reshape(held[row].shape)

    def _set_flags(self, row: int, kind: str) -> None:
        for leaf, marked in self._roles.flags.items():
            held = self._leaves[leaf]
            if kind in (FLAGS_OFF, FLAGS_ON):
                held[row] = kind is FLAGS_ON
            elif marked is not None:
                history, value = marked
                pads = self._leaves[history][row] == self._roles.histories[history]
                held[row] = (pads if value else ~pads).to(held.dtype)
            elif kind is NOTHING:
                held[row] = False

    def _set_lengths(self, row: int, kind: str) -> None:
        for leaf, (history, counts) in self._roles.lengths.items():
            held = self._leaves[leaf]
            if counts:
                held[row] = int((self._leaves[history][row] != self._roles.histories[history]).sum())
            elif kind in (NOTHING, ONE_FIRST, ONE_LAST):
                held[row] = int(kind is not NOTHING)

    def _set_numbers(self, row: int, kind: str, number: float) -> None:
        one = kind in ("a NaN", "an infinity", "a negative infinity")
        for leaf in sorted(self._roles.floats & self._roles.batched):
            held, ranges = self._leaves[leaf], self._roles.ranges.get(leaf)
            values = held[row].reshape(-1).clone()
            free = torch.ones(len(values), dtype=torch.bool) if ranges is None else ~ranges.known
            self._write(values, free, one, number)
            held[row] = values.reshape(held[row].shape)
        for group in self._roles.bags:
            for stream, rows in zip(group.streams, group.rows(self._leaves), strict=True):
                for leaf in (m for m in stream.leaves if m in self._roles.floats and stream.row is None):
                    values = self._leaves[leaf][: len(rows)]
                    self._write(values, rows == row, one, number)

    def _write(self, values: torch.Tensor, places: torch.Tensor, one: bool, number: float) -> None:
        """Writes a number to the given places, or to one random place of them when `one`."""
        if one and bool(places.any()):
            free = places.nonzero().reshape(-1)
            chosen = free[torch.randint(len(free), (1,), generator=self._generator)]
            places = torch.zeros_like(places)
            places[chosen] = True
        values[places] = number


def _history(kind: str, row: torch.Tensor, padding: int) -> torch.Tensor:
    """A flat row of histories [..., L]: without ids, with one id, or with the same id in all places."""
    lines = row.reshape(-1, row.shape[-1])
    ids = lines.where(lines != padding, 0).amax(1, keepdim=True)
    if kind is EQUAL:
        return ids.where(ids != 0, lines[:, :1]).expand_as(lines).reshape(-1)
    empty = torch.full_like(lines, padding)
    if kind is not NOTHING:
        place = 0 if kind is ONE_FIRST else -1
        empty[:, place] = ids.reshape(-1).where(ids.reshape(-1) != 0, lines[:, 0])
    return empty.reshape(-1)
