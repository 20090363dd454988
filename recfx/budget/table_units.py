"""The options of tables: widths and shared cold rows together, with their bytes, and their harm in closed form."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from recfx.budget.sensitivity import TableResponses
from recfx.budget.steps import ALWAYS, BITS, LEAST, REFINED, Group, Step
from recfx.budget.units import Option, Unit
from recfx.errors import InputError
from recfx.formats import decode_rows, encode_rows, row_bytes
from recfx.formats.rowwise import encode_new_rows
from recfx.passes.prune.share_cold_rows import PLACE_BYTES, cold_rows, mean_row

#: The most options of a unit. Tables of a unit of more are units of their own.
_MOST_OPTIONS = 256
#: The bits of a table that stays as it is.
_WHOLE = 32

Forms = tuple[tuple[Group, str], ...]


@dataclasses.dataclass
class TableGroups:
    """A table with the groups of its widths and of its rows.

    Attributes:
        name: Its name.
        tensor: [rows, columns].
        widths: The group of its widths; None if they stay.
        rows: The group of its rows; None if they stay.
        counts: How often each row is read, int64 [rows]; None if that is not known.
        padding: The rows that lookups take for padding.
    """

    name: str
    tensor: Tensor
    widths: Group | None
    rows: Group | None = None
    counts: Tensor | None = None
    padding: frozenset[int] = frozenset()

    @cached_property
    def _values(self) -> dict[int, Tensor | None]:
        """Bits -> the table in these bits; None where it cannot be stored so."""
        exact = self.tensor.detach().float()
        found: dict[int, Tensor | None] = {_WHOLE: exact}
        for form in self.widths.forms if self.widths else ():
            bits = BITS[form]
            try:
                found[bits] = _rounded(exact, bits)
            except InputError:
                found[bits] = None
        return found

    def cold(self, least: int) -> Tensor | None:
        """The rows that share one; None if none do."""
        if not least or self.rows is None or self.counts is None or (least == ALWAYS and self.padding):
            return None
        return cold_rows(self.counts, least, self.padding)

    def change(self, bits: int, least: int) -> Tensor | None:
        """The change of the table, [rows, columns]; None if it cannot be stored so."""
        values = self._values[bits]
        cold = self.cold(least)
        if values is None or cold is None or self.counts is None:
            return None if values is None else values - self.tensor.detach()
        shared = mean_row(self.tensor.detach()[cold], self.counts[cold]).float()[None]
        if bits in (_WHOLE, 16):
            shared = shared if bits == _WHOLE else shared.bfloat16().float()
        else:
            shared = decode_rows(encode_new_rows(shared, bits, refine=bits in REFINED), bits, shared.shape[1])
        return torch.where(cold[:, None], shared, values) - self.tensor.detach()

    def bytes(self, bits: int, least: int) -> int:
        """The bytes of its rows."""
        rows, columns = self.tensor.shape
        cold = self.cold(least)
        if cold is not None:
            rows += 1 - int(cold.sum())
        if bits == _WHOLE:
            return rows * columns * self.tensor.element_size()
        return rows * (2 * columns if bits == 16 else row_bytes(bits, columns))

    def options(self) -> list[int]:
        """The widths that it may have."""
        return [bits for bits, values in self._values.items() if values is not None]


def _rounded(exact: Tensor, bits: int) -> Tensor:
    if bits == 16:
        return exact.bfloat16().float()
    return decode_rows(encode_rows(exact, bits, refine=bits in REFINED), bits, exact.shape[1])


class TableUnits:
    """The units of some tables.

    Args:
        tables: The tables, all in `responses.names`.
        responses: The changes of the answers.
        everything: The bytes of the program, of which options save a share.

    Attributes:
        groups: The groups of the tables, with the forms that save something.
    """

    def __init__(self, tables: Sequence[TableGroups], responses: TableResponses, everything: int) -> None:
        self._responses, self._everything = responses, everything
        self._tables = list(map(_saving, tables))
        self._known: dict[tuple[str, int, int], Tensor | None] = {}
        self.groups = [group for table in self._tables for group in (table.widths, table.rows) if group is not None]

    def units(self) -> Iterator[Unit]:
        """One unit for all tables that are read with the same ids."""
        for tables in self._together():
            counts = math.prod(len(table.options()) for table in tables) * (1 + len(LEAST))
            for own in [tables] if counts <= _MOST_OPTIONS else [[table] for table in tables]:
                yield self._unit(own)

    def steps(self) -> Iterator[Step]:
        """The steps of each group when all others are unchanged. The widest table of a unit pays for the list of places."""
        for tables in self._together():
            for number, table in enumerate(tables):
                for group, settings in _alone(table):
                    harm = saved = 0.0
                    for form, (bits, least) in settings:
                        option = self._option([table], [bits], least, (), places=number == 0)
                        if option is not None:
                            yield Step(group, form, max(option.harm - harm, 0.0), option.bytes - saved)
                            harm, saved = max(harm, option.harm), option.bytes

    def _together(self) -> list[list[TableGroups]]:
        """The tables of each unit, the widest first."""
        together: dict[object, list[TableGroups]] = {}
        for table in sorted(self._tables, key=lambda table: -table.tensor.shape[1]):
            key: object = table.name
            if table.rows is not None and table.counts is not None:
                key = table.counts.numpy().tobytes(), table.padding
            together.setdefault(key, []).append(table)
        return list(together.values())

    def _unit(self, tables: list[TableGroups]) -> Unit:
        """All options, without those that another one surpasses."""
        found: list[Option] = [Option()]
        leasts = {0: ""} | {LEAST[form]: form for t in tables if t.rows is not None for form in t.rows.forms}
        for least, shared in leasts.items():
            rows = [(table.rows, shared) for table in tables if least and table.rows and shared in table.rows.forms]
            for widths in itertools.product(*([_WHOLE] if least == ALWAYS else table.options() for table in tables)):
                forms = [(t.widths, _FORMS[b]) for t, b in zip(tables, widths, strict=True) if t.widths and b != _WHOLE]
                option = self._option(tables, widths, least, tuple(forms + rows))
                if option is not None and option.bytes > 0:
                    found.append(option)
        return _surpassing(found)

    def _option(
        self, tables: list[TableGroups], widths: Sequence[int], least: int, forms: Forms, *, places: bool = True
    ) -> Option | None:
        total: Tensor | None = None
        before = after = 0
        for table, bits in zip(tables, widths, strict=True):
            response = self._response(table, bits, least)
            if response is None:
                return None
            total = response if total is None else total + response
            before += table.bytes(_WHOLE, 0)
            after += table.bytes(bits, least)
        assert total is not None
        if 0 < least < ALWAYS and places and any(table.rows is not None for table in tables):
            after += len(tables[0].tensor) * PLACE_BYTES
        harm = float(total.square().mean(1).sum())
        return Option(forms, harm if math.isfinite(harm) else math.inf, (before - after) / self._everything)

    def _response(self, table: TableGroups, bits: int, least: int) -> Tensor | None:
        key = table.name, bits, least
        if key not in self._known:
            change = table.change(bits, least)
            self._known[key] = None if change is None else self._responses.response(table.name, change)
        return self._known[key]


_FORMS: Mapping[int, str] = {bits: form for form, bits in BITS.items()}


def _saving(table: TableGroups) -> TableGroups:
    """A table whose groups have only the forms that can be stored and that take fewer bytes than the form before them."""

    def smaller(group: Group | None, settings: Sequence[tuple[int, int]]) -> Group | None:
        if group is None:
            return None
        forms, least = [], table.bytes(_WHOLE, 0)
        for form, setting in zip(group.forms, settings, strict=True):
            if not (setting[0] == _WHOLE or setting[0] in table.options()):
                continue
            if table.bytes(*setting) < least or setting[1] == ALWAYS:  # which needs no list of places either
                forms.append(form)
                least = table.bytes(*setting)
        return dataclasses.replace(group, forms=tuple(forms)) if forms else None

    widths = smaller(table.widths, [(BITS[form], 0) for form in table.widths.forms] if table.widths else ())
    rows = smaller(table.rows, [(_WHOLE, LEAST[form]) for form in table.rows.forms] if table.rows else ())
    return dataclasses.replace(table, widths=widths, rows=rows)


def _alone(table: TableGroups) -> Iterator[tuple[Group, list[tuple[str, tuple[int, int]]]]]:
    """The groups of a table, each with its forms as (bits, least)."""
    if table.widths is not None:
        yield table.widths, [(form, (BITS[form], 0)) for form in table.widths.forms]
    if table.rows is not None:
        yield table.rows, [(form, (_WHOLE, LEAST[form])) for form in table.rows.forms]


def _surpassing(options: Sequence[Option]) -> Unit:
    """The unchanged option, and those of which no other one has as little harm and saves as much, by rising harm."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.harm, -option.bytes)):
        if not kept or option.bytes > kept[-1].bytes:
            kept.append(option)
    return (Option(), *(option for option in kept if option.forms))
