"""Finds the groups of a model that can be compressed, and estimates for each step what it saves and how much it harms.

The harm of a step is the mean square change of the outputs on some rows when this step alone is applied. No label and no evaluation is
needed. Harms give the order in which steps are taken back; what is kept is decided by measurements of whole compositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from recfx.analysis.channel_groups import Kind as ChannelKind
from recfx.analysis.channel_groups import channel_groups
from recfx.budget.steps import FORMS, LEAST, NARROW, Group, Kind, Plan, Setting, Step, quantising, rows_of, sharing
from recfx.cost.arithmetic import arithmetic
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.passes import QuantizeLinears, QuantizeTables, ShareColdRows
from recfx.passes.prune.prune_channels import group_names
from recfx.pipeline import Pass, Pipeline

#: Rows for which arithmetic is counted.
_ROWS = 64
#: Form of a layer -> the part of its time in float32 that it saves, about.
_SAVES = {"16 bits": 0.25, "8 bits": 0.5}

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
        advance: Called after each group.

    Attributes:
        groups: All groups, also those without steps, once `steps` has run.
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
        advance: Callable[[int], object] = lambda done: None,
    ) -> None:
        self._plan, self._rows, self._resources = plan, rows, resources
        self._quantises, self._prunes, self._advance = quantises, prunes, advance
        self._whole = self._run(captured, plan.pipeline([], {}))
        self._trunk = self._run(captured, plan.before_pruning()) if prunes else None
        self._bytes = max(self._whole.state_bytes(), 1)
        self._work = max(arithmetic(self._whole, _ROWS).multiply_adds, 1)
        self.groups: list[Group] = []

    def steps(self) -> list[Step]:
        """All steps of all groups."""
        steps: list[Step] = []
        if self._quantises:
            for groups in (self._tables(), self._layers()):
                steps += self._quantised(groups)
        if self._trunk is not None:
            steps += self._shared(self._trunk)
            steps += self._pruned(self._trunk)
        return steps

    def _tables(self) -> list[Group]:
        eight = self._replaced(QuantizeTables(8))
        narrow = [name for name in self._replaced(QuantizeTables(16)) if name not in eight]
        return _groups(eight, "table", FORMS["table"]) + _groups(narrow, "table", NARROW)

    def _layers(self) -> list[Group]:
        return _groups(self._replaced(QuantizeLinears(8)), "layer", FORMS["layer"])

    def _quantised(self, groups: list[Group]) -> list[Step]:
        outputs = self._outputs(self._whole)
        weights = {name: tensor.numel() for name, tensor in self._whole.state().items()}
        steps = []
        for group in groups:
            work = weights[group.name] * _ROWS / self._work if group.kind == "layer" else 0.0
            steps += self._of_group(self._whole, outputs, group, groups, quantising, work)
        return steps

    def _shared(self, trunk: Program) -> list[Step]:
        """The steps of tables of which some rows are cold; none if it is not known how often rows are read."""
        if "traffic" not in self._resources:
            return []
        outputs = self._outputs(trunk)
        before, most = trunk.state(), max(LEAST.values())
        after = self._run(trunk, Pipeline([ShareColdRows(most)])).state()
        smaller = [name for name, tensor in before.items() if name in after and len(after[name]) < len(tensor)]
        groups = _groups(map(rows_of, smaller), "rows", FORMS["rows"])
        return [step for g in groups for step in self._of_group(trunk, outputs, g, groups, sharing, 0.0)]

    def _pruned(self, trunk: Program) -> list[Step]:
        outputs = self._outputs(trunk)
        found = channel_groups(trunk)
        names = [name for group, name in group_names(found).items() if group.kind is ChannelKind.CHANNELS]
        groups = _groups(names, "channels", FORMS["channels"])
        steps = []
        for group in groups:
            steps += self._of_group(trunk, outputs, group, groups, self._plan.pruning, 0.0)
        return steps

    def _of_group(
        self,
        program: Program,
        outputs: Outputs,
        group: Group,
        groups: Sequence[Group],
        passes: Callable[[Sequence[Group], Setting], list[Pass]],
        work: float,
    ) -> list[Step]:
        """The steps of a group, each applied to a program without any other; forms that save nothing are left out.

        Args:
            program: The program.
            outputs: Its outputs.
            group: The group.
            groups: All groups of its kind, of which the others keep their form.
            passes: The passes of a setting.
            work: The share of all arithmetic that is the group's own.
        """
        everything = program.state_bytes()
        multiply_adds = arithmetic(program, _ROWS).multiply_adds
        found: list[tuple[str, float, float]] = []
        for form in group.forms:
            changed = self._run(program, Pipeline(passes(groups, {group: form})))
            saved = (everything - changed.state_bytes()) / self._bytes + work * _SAVES.get(form, 0.0)
            saved += (multiply_adds - arithmetic(changed, _ROWS).multiply_adds) / self._work
            if saved > (found[-1][2] if found else 0.0):
                found.append((form, self._harm(outputs, self._outputs(changed)), saved))
        self._advance(1)
        own = Group(group.name, group.kind, tuple(form for form, _, _ in found))
        self.groups.append(own)
        steps, harm, saved = [], 0.0, 0.0
        for form, total, whole in found:
            steps.append(Step(own, form, max(total - harm, 0.0), whole - saved))
            harm, saved = max(harm, total), whole
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


def _groups(names: Iterable[str], kind: Kind, forms: tuple[str, ...]) -> list[Group]:
    return [Group(name, kind, forms) for name in names]
