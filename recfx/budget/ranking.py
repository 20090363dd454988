"""Finds the groups of a model that can be compressed, and estimates for each step what it saves and how much it harms.

The harm of a step is the mean square change of the outputs on some rows when this step alone is applied, divided by their variance. No
label and no evaluation is needed. For tables it follows in closed form from one backward pass (`recfx.budget.sensitivity`); for layers,
channels and ranks it is measured. Harms decide which compositions are tried; what is kept is decided by measurements of whole ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch

from recfx.analysis.channel_groups import Kind as ChannelKind
from recfx.analysis.channel_groups import channel_groups
from recfx.budget.sensitivity import TableResponses
from recfx.budget.settings import KINDS
from recfx.budget.steps import (
    FORMS,
    LEAST,
    NARROW,
    RANKS,
    REMOVED,
    Group,
    Kind,
    Plan,
    Setting,
    Step,
    removing,
    rows_of,
    sharing,
    table_of,
)
from recfx.budget.table_units import TableGroups, TableUnits
from recfx.budget.units import Option, Unit
from recfx.cost.arithmetic import arithmetic
from recfx.errors import InputError
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.passes import FactorizeLinears, QuantizeLinears, QuantizeTables, RemoveFields, ShareColdRows
from recfx.passes.prune.known_scores import KnownScores
from recfx.passes.prune.prune_channels import answer_scores, group_names
from recfx.passes.prune.row_counts import row_counts
from recfx.passes.prune.share_cold_rows import padding_rows
from recfx.pipeline import Pass, Pipeline

#: Rows for which arithmetic is counted.
_ROWS = 64
#: Form of a layer -> the part of its time in float32 that it saves, about.
_SAVES = {"16 bits": 0.25, "8 bits": 0.5}
#: The part of the bytes and of the time in float32 that a layer of 8 bits takes, about: what removed channels of such layers save.
_INT8_BYTES, _INT8_TIME = 0.25, 0.5

Outputs = list[torch.Tensor]


class Ranking:
    """The steps of a model.

    Args:
        captured: The model as a program.
        plan: The pipeline of the target.
        rows: Flat inputs of some batches, on which outputs are compared.
        resources: The data that passes get.
        quantises: Whether the target has kernels for fewer bits.
        prunes: Whether channels may be removed.
        kinds: What may be compressed, see `Budget`.
        advance: Called after each group.

    Attributes:
        groups: All groups, also those without steps, once `steps` has run.
        units: The groups whose forms are chosen together, once `steps` has run.
    """

    def __init__(
        self,
        captured: Program,
        plan: Plan,
        rows: Sequence[Sequence[Any]],
        resources: dict[str, Any],
        *,
        quantises: bool,
        prunes: bool,
        kinds: Collection[str] = KINDS,
        advance: Callable[[int], object] = lambda done: None,
    ) -> None:
        self._captured, self._plan, self._rows, self._resources = captured, plan, rows, resources
        self._quantises, self._kinds, self._advance = quantises, kinds, advance
        self._whole = self._run(captured, plan.pipeline([], {}))
        self._trunk = self._run(captured, plan.before_pruning()) if prunes else None
        self._bytes = max(self._whole.state_bytes(), 1)
        self._work = max(arithmetic(self._whole, _ROWS).multiply_adds, 1)
        self.groups: list[Group] = []
        self.units: list[Unit] = []

    def score(self, calibration: Any) -> KnownScores | None:
        """Measures which channels matter, once for all steps and compositions; None if no channels are removed by such scores.

        Args:
            calibration: All calibration data.
        """
        if self._trunk is None or "channels" not in self._kinds or self._plan.importance != "taylor":
            return None
        known = answer_scores(self._trunk, calibration)
        self._resources = {**self._resources, "channel-scores": known}
        return known

    def steps(self) -> list[Step]:
        """All steps of all groups."""
        widths = self._tables() if self._quantises and "tables" in self._kinds else []
        rows = self._sharable()
        steps = self._closed_form(widths, rows)
        known = {group.name for group in self.groups}
        widths, rows = ([group for group in groups if group.name not in known] for groups in (widths, rows))
        measured: list[Step] = []
        if self._quantises:
            measured += self._quantised(widths)
            measured += self._quantised(self._layers() if "layers" in self._kinds else [])
        if self._trunk is not None:
            outputs = self._outputs(self._trunk)
            measured += [s for g in rows for s in self._of_group(self._trunk, outputs, g, rows, _smaller)]
            measured += self._pruned(self._trunk, outputs) if "channels" in self._kinds else []
        return steps + measured

    def _tables(self) -> list[Group]:
        eight = self._replaced(QuantizeTables(8))
        narrow = [name for name in self._replaced(QuantizeTables(16)) if name not in eight]
        return _groups(eight, "table", FORMS["table"]) + _groups(narrow, "table", NARROW)

    def _layers(self) -> list[Group]:
        layers = self._replaced(QuantizeLinears(8))
        wide: list[str] = []
        if self._trunk is not None and "ranks" in self._kinds:
            after = self._run(self._trunk, Pipeline([FactorizeLinears(min(RANKS.values()))])).state()
            wide = [name for name in self._trunk.state() if name not in after]
        forms = {True: FORMS["layer"], False: tuple(form for form in FORMS["layer"] if form not in RANKS)}
        return [Group(name, "layer", forms[name in wide]) for name in layers]

    def _sharable(self) -> list[Group]:
        """The rows of tables of which some are cold; nothing if it is not known how often rows are read."""
        if self._trunk is None or "traffic" not in self._resources or "rows" not in self._kinds:
            return []
        forms: dict[str, list[str]] = {}
        before = self._trunk.state()
        for form in FORMS["rows"]:
            if form == REMOVED:
                for name in self._removable():
                    forms.setdefault(name, []).append(form)
                continue
            after = self._run(self._trunk, Pipeline([ShareColdRows(LEAST[form])])).state()
            for name, tensor in before.items():
                if name in after and len(after[name]) < len(tensor):
                    forms.setdefault(name, []).append(form)
        return [Group(rows_of(name), "rows", tuple(own)) for name, own in forms.items()]

    def _removable(self) -> list[str]:
        """The tables without padding rows that can have one row for all ids."""
        assert self._trunk is not None
        before = self._trunk.state()
        lookups = self._trunk.graph.find_nodes
        read = {str(n.args[0].target) for target in TABLE_LOOKUPS for n in lookups(op="call_function", target=target)}
        names = tuple(name for name in before if name in read and not self._padding(name))
        after = self._run(self._trunk, Pipeline([RemoveFields(only=names)])).state() if names else before
        return [name for name in before if name not in after]

    def _closed_form(self, widths: list[Group], rows: list[Group]) -> list[Step]:
        """The steps of tables that only lookups read, and their units."""
        if self._trunk is None:
            return []
        responses = TableResponses(self._trunk, self._rows)
        state, whole = self._trunk.state(), self._whole.state()
        width_of = {group.name: group for group in widths if _same(state.get(group.name), whole.get(group.name))}
        rows_in = {table_of(group): group for group in rows}
        names = [name for name in state if name in responses.names and (name in width_of or name in rows_in)]
        counts = self._counts([name for name in names if name in rows_in])
        tables = [
            TableGroups(name, state[name], width_of.get(name), rows_in.get(name), counts.get(name), self._padding(name))
            for name in names
        ]
        found = TableUnits(tables, responses, self._bytes)
        steps = list(found.steps())
        self.groups += found.groups
        self.units += found.units()
        self._advance(len(tables))
        return steps

    def _counts(self, names: list[str]) -> dict[str, torch.Tensor]:
        """How often each row of some tables is read."""
        assert self._trunk is not None
        state = self._trunk.state()
        reads = {node: len(state[str(node.target)]) for node in self._reads(names)}
        found = row_counts(self._trunk, reads, self._resources.get("traffic")) if reads else {}
        counts: dict[str, torch.Tensor] = {}
        for read, count in found.items():
            name = str(read.target)
            counts[name] = counts[name] + count if name in counts else count
        return counts

    def _padding(self, name: str) -> frozenset[int]:
        assert self._trunk is not None
        lookups = [user for read in self._reads([name]) for user in read.users if user.target in TABLE_LOOKUPS]
        return frozenset(padding_rows(lookups, len(self._trunk.state()[name])))

    def _reads(self, names: Sequence[str]) -> Iterator[torch.fx.Node]:
        assert self._trunk is not None
        return (n for n in self._trunk.graph.find_nodes(op="get_attr") if str(n.target) in names and n.users)

    def _quantised(self, groups: list[Group]) -> list[Step]:
        outputs = self._outputs(self._whole)
        weights = {name: tensor.numel() for name, tensor in self._whole.state().items()}
        steps = []
        for group in groups:
            work = weights[group.name] * _ROWS / self._work if group.kind == "layer" else 0.0
            steps += self._of_group(self._whole, outputs, group, groups, self._plan.quantising, work=work)
        return steps

    def _pruned(self, trunk: Program, outputs: Outputs) -> list[Step]:
        found = channel_groups(trunk)
        names = [name for group, name in group_names(found).items() if group.kind is ChannelKind.CHANNELS]
        groups = _groups(names, "channels", FORMS["channels"])
        parts = (_INT8_BYTES, _INT8_TIME) if self._quantises else (1.0, 1.0)
        return [s for g in groups for s in self._of_group(trunk, outputs, g, groups, self._plan.pruning, parts=parts)]

    def _of_group(
        self,
        program: Program,
        outputs: Outputs,
        group: Group,
        groups: Sequence[Group],
        passes: Callable[[Sequence[Group], Setting], list[Pass]],
        *,
        work: float = 0.0,
        parts: tuple[float, float] = (1.0, 1.0),
    ) -> list[Step]:
        """The steps of a group, each applied to a program without any other; forms that save nothing are left out.

        Args:
            program: The program.
            outputs: Its outputs.
            group: The group.
            groups: All groups of its kind, of which the others keep their form.
            passes: The passes of a setting.
            work: The share of all arithmetic that is the group's own.
            parts: The parts of the saved bytes and of the saved arithmetic that count.
        """
        everything, multiply_adds = program.state_bytes(), arithmetic(program, _ROWS).multiply_adds
        found: list[tuple[str, float, float, float]] = []
        for form in group.forms:
            if form in RANKS:
                try:
                    changed = self._run(self._captured, self._plan.pipeline(groups, {group: form}))
                except InputError:  # a factor was joined with another layer, whose name is then unknown
                    continue
            else:
                changed = self._run(program, Pipeline(passes(groups, {group: form})))
            less = (multiply_adds - arithmetic(changed, _ROWS).multiply_adds) / self._work
            saved = parts[0] * (everything - changed.state_bytes()) / self._bytes
            time = less * (parts[1] if form not in RANKS else _INT8_TIME) + work * _saves(form)
            if saved + time > 0.0:
                found.append((form, self._harm(outputs, self._outputs(changed)), saved, time))
        self._advance(1)
        own = Group(group.name, group.kind, tuple(form for form, *_ in found))
        self.groups.append(own)
        self.units.append((Option(), *(Option(((own, form),), *figures) for form, *figures in found)))
        steps, harm, saved, time = [], 0.0, 0.0, 0.0
        for form, total, bytes_saved, time_saved in found:
            steps.append(Step(own, form, max(total - harm, 0.0), bytes_saved - saved, time_saved - time))
            harm, saved, time = max(harm, total), bytes_saved, time_saved
        return steps

    def _run(self, program: Program, pipeline: Pipeline) -> Program:
        return pipeline.run(
            program, verify=Level.OFF, resources=self._resources, reproducer=False, lenient=False
        ).program

    def _replaced(self, item: Pass) -> list[str]:
        """The names of the weights that a pass replaces."""
        state = self._run(self._whole, Pipeline([item])).state()
        return [name for name in self._whole.state() if name not in state]

    def _outputs(self, program: Program) -> Outputs:
        """The floating-point outputs, float64, of all rows."""
        batches = [program.run(leaves) for leaves in self._rows]
        places = [i for i, o in enumerate(batches[0]) if isinstance(o, torch.Tensor) and o.is_floating_point()]
        return [torch.cat([batch[i].double().reshape(-1) for batch in batches]) for i in places]

    @staticmethod
    def _harm(before: Outputs, after: Outputs) -> float:
        harm = 0.0
        for want, got in zip(before, after, strict=True):
            spread = float(want.var(correction=0)) if want.numel() else 0.0
            change = float((got - want).square().mean()) if want.numel() else 0.0
            harm += change / max(spread, torch.finfo(torch.float32).tiny) if change else 0.0
        return harm if math.isfinite(harm) else math.inf


def _smaller(groups: Sequence[Group], setting: Setting) -> list[Pass]:
    """The passes that let rows of tables share one."""
    return [*sharing(groups, setting), *removing(groups, setting)]


def _saves(form: str) -> float:
    """The part of the time of a layer that its bits save."""
    return next((part for bits, part in _SAVES.items() if form.startswith(bits)), 0.0)


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _groups(names: Iterable[str], kind: Kind, forms: tuple[str, ...]) -> list[Group]:
    return [Group(name, kind, forms) for name in names]
