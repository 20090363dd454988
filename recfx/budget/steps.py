"""Groups of a model that can be compressed by themselves, the steps of each group, and the pipeline of a composition of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from recfx.passes import (
    FactorizeLinears,
    Passes,
    PruneChannels,
    QuantizeLinears,
    QuantizeTables,
    RemoveDeadChannels,
    RemoveFields,
    ShareColdRows,
    Stage,
    with_extra_passes,
)
from recfx.pipeline import Pass, Pipeline

#: The stage behind which channels are removed: constant ones have gone, and no operator of the dialect hides any.
PRUNE_AFTER = "dead-channels"

#: Form of a table or a layer -> its bits; in the order in which passes store them.
BITS = MappingProxyType({"1 bit": 1, "2 bits": 2, "4 bits": 4, "8 bits": 8, "16 bits": 16})
#: Form of a layer that becomes two of low rank, in the bits with which it begins -> the part of its products that goes.
RANKS = MappingProxyType(
    {
        "16 bits, rank of 25 %": 0.75,
        "16 bits, rank of 10 %": 0.9,
        "8 bits, rank of 50 %": 0.5,
        "8 bits, rank of 25 %": 0.75,
        "8 bits, rank of 10 %": 0.9,
    }
)
#: Form of a group of channels -> the part of its channels that goes; in the order in which passes remove them.
RATIOS = MappingProxyType({"75 % fewer channels": 0.75, "50 % fewer channels": 0.5, "25 % fewer channels": 0.25})

#: The form of a table all of whose rows are one: its field does not matter.
REMOVED = "one row for all ids"
#: More often than any row is read.
ALWAYS = 1 << 62
#: Form of the rows of a table -> rows that are read less often share one; in the order in which passes share them.
LEAST = MappingProxyType(
    {
        REMOVED: ALWAYS,
        "rows read < 16 times share one": 16,
        "rows read < 8 times share one": 8,
        "rows read < 4 times share one": 4,
        "rows read once share one": 2,
    }
)

Kind = Literal["table", "rows", "layer", "channels"]
#: Kind of a group -> the forms that it may take, the least compressed first.
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "table": ("8 bits", "4 bits", "2 bits", "1 bit"),
        "rows": tuple(reversed(LEAST)),
        "layer": ("16 bits", "8 bits", *RANKS),
        "channels": tuple(reversed(RATIOS)),
    }
)
#: The forms of tables whose rows are too short for fewer bits: scale and bias would take more than they save.
NARROW = ("16 bits",)
#: The widths at which the scale and the bias of least squared error are searched for each row.
REFINED = (2, 4)


@dataclasses.dataclass(frozen=True)
class Group:
    """A group.

    Attributes:
        name: The name of its weight, or of its group of channels.
        kind: What it is.
        forms: The forms that it may take, the least compressed first.
    """

    name: str
    kind: Kind
    forms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """The step of a group to a form from the form before it.

    Attributes:
        group: The group.
        form: The form.
        harm: The mean square change of the outputs that the step adds, divided by their variance.
        bytes: The share of all bytes that it saves.
        time: The share of all arithmetic that it saves, where int8 and 16 bits count as less.
    """

    group: Group
    form: str
    harm: float
    bytes: float
    time: float = 0.0

    @property
    def saved(self) -> float:
        """The share of bytes plus the share of arithmetic that it saves."""
        return self.bytes + self.time

    @property
    def level(self) -> int:
        """The position of the form in the group, from 0."""
        return self.group.forms.index(self.form)


#: Group -> its form; groups without an entry are unchanged.
Setting = Mapping[Group, str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The pipeline of the target, and where passes that compress go.

    Attributes:
        stages: The stages of the target.
        extra: The user's own passes in them.
        importance: How channels are ranked.
        keep_means: Whether means of removed channels go into biases.
        calibrated: Whether int8 layers get factors and corrected biases from calibration data.
    """

    stages: tuple[Stage, ...]
    extra: Mapping[str, Passes] | Passes
    importance: Literal["l2", "taylor"] = "taylor"
    keep_means: bool = True
    calibrated: bool = False

    def pipeline(self, groups: Sequence[Group], setting: Setting) -> Pipeline:
        """The pipeline of a composition.

        Args:
            groups: All groups of the model.
            setting: Their forms.
        """
        stages = []
        for stage in self.stages:
            stages.append(stage)
            if stage.name == PRUNE_AFTER:
                stages.append(
                    Stage(
                        "prune",
                        _text(self._shrinking(groups, setting)),
                        "Before lookups are fused and layers are joined.",
                    )
                )
        stages.append(
            Stage("quantize", _text(self.quantising(groups, setting)), "After all passes that compute new weights.")
        )
        return with_extra_passes([stage for stage in stages if stage.passes], self.extra or {})

    def _shrinking(self, groups: Sequence[Group], setting: Setting) -> list[Pass]:
        """The passes that make tensors smaller. Fields go after channels, whose groups may have the names of their tables."""
        removed = removing(groups, setting)
        passes = [*sharing(groups, setting), *self.pruning(groups, setting), *removed]
        return [*passes, *([RemoveDeadChannels()] if removed else []), *self.factors(groups, setting)]

    def before_pruning(self) -> Pipeline:
        """The passes before channels are removed."""
        names = [stage.name for stage in self.stages]
        names = names[: names.index(PRUNE_AFTER) + 1]
        return with_extra_passes(self.stages[: len(names)], _within(self.extra, names))

    def pruning(self, groups: Sequence[Group], setting: Setting) -> list[Pass]:
        """The passes that remove channels."""
        own = [group for group in groups if group.kind == "channels"]
        passes: list[Pass] = []
        for form, ratio in RATIOS.items():
            keep = tuple(group.name for group in own if setting.get(group) != form)
            if len(keep) < len(own):
                passes.append(PruneChannels(ratio, importance=self.importance, keep_means=self.keep_means, keep=keep))
        return passes

    def quantising(self, groups: Sequence[Group], setting: Setting) -> list[Pass]:
        """The passes that store weights in fewer bits."""
        return quantising(groups, setting, calibrated=self.calibrated)

    def factors(self, groups: Sequence[Group], setting: Setting) -> list[Pass]:
        """The passes that replace linears by two of low rank."""
        passes: list[Pass] = []
        for ratio in sorted(set(RANKS.values())):
            only = tuple(g.name for g in groups if setting.get(g) in RANKS and RANKS[setting[g]] == ratio)
            if only:
                importance: Literal["weights", "activation"] = "activation" if self.keep_means else "weights"
                passes.append(FactorizeLinears(ratio, importance=importance, only=only))
        return passes


def sharing(groups: Sequence[Group], setting: Setting) -> list[Pass]:
    """The passes that let cold rows share one."""
    own = [group for group in groups if group.kind == "rows"]
    passes: list[Pass] = []
    for form, least in LEAST.items():
        if form == REMOVED:
            continue
        keep = tuple(table_of(group) for group in own if setting.get(group) != form)
        if len(keep) < len(own):
            passes.append(ShareColdRows(least, keep=keep))
    return passes


def removing(groups: Sequence[Group], setting: Setting) -> list[Pass]:
    """The passes that give a table one row for all ids."""
    only = tuple(table_of(group) for group in groups if group.kind == "rows" and setting.get(group) == REMOVED)
    return [RemoveFields(only=only)] if only else []


def rows_of(table: str) -> str:
    """The name of the group of the rows of a table."""
    return f"rows of {table}"


def table_of(group: Group) -> str:
    """The table of a group of rows."""
    return group.name.removeprefix(rows_of(""))


def quantising(groups: Sequence[Group], setting: Setting, *, calibrated: bool = False) -> list[Pass]:
    """The passes that store weights in fewer bits; `calibrated` as of a `Plan`."""
    passes: list[Pass] = []
    gone = {table_of(group) for group in groups if setting.get(group) == REMOVED}
    tables = [group for group in groups if group.kind == "table" and group.name not in gone]
    layers = [group for group in groups if group.kind == "layer"]
    for form, bits in BITS.items():
        chosen, tables = _divided(tables, setting, form)
        if chosen:
            found = [table.name for table in tables if form in NARROW or table.forms != NARROW]
            passes.append(QuantizeTables(bits, refine=bits in REFINED, keep=tuple(found)))
    for form, bits in BITS.items():
        chosen, layers = _divided(layers, setting, form)
        if chosen:
            keep = tuple(name for g in layers for name in _weights(g, setting))
            fitted = calibrated and bits == BITS["8 bits"]
            passes.append(QuantizeLinears(bits, migrate=fitted, correct_bias=fitted, keep=keep))
    return passes


def _weights(layer: Group, setting: Setting) -> tuple[str, ...]:
    """The names of the weight of a layer, or of its factors."""
    if setting.get(layer) in RANKS:
        return f"{layer.name}_left", f"{layer.name}_right"
    return (layer.name,)


def _divided(groups: Sequence[Group], setting: Setting, form: str) -> tuple[list[Group], list[Group]]:
    """The groups of a form, and the others. A layer of low rank has the bits that its form begins with."""

    def is_chosen(group: Group) -> bool:
        own = setting.get(group)
        return own == form or (own in RANKS and str(own).startswith(form))

    return [g for g in groups if is_chosen(g)], [g for g in groups if not is_chosen(g)]


def setting_of(steps: Iterable[Step], reverted: Iterable[Step]) -> dict[Group, str]:
    """The forms of all groups when some steps are taken back, with those that build on them."""
    levels = {step.group: len(step.group.forms) for step in steps}
    for step in reverted:
        levels[step.group] = min(levels[step.group], step.level)
    return {group: group.forms[level - 1] for group, level in levels.items() if level}


def in_order(steps: Sequence[Step]) -> list[int]:
    """The numbers of the steps, the one with the most harm for what it saves first. A step comes before those that it builds on."""
    weights: dict[tuple[Group, int], float] = {}
    for step in sorted(steps, key=lambda step: step.level):
        weight = step.harm / max(step.saved, 1e-12)
        weights[step.group, step.level] = max(weight, weights.get((step.group, step.level - 1), 0.0))
    return sorted(
        range(len(steps)),
        key=lambda i: (-weights[steps[i].group, steps[i].level], -steps[i].level, steps[i].group.name),
    )


def _text(passes: Sequence[Pass]) -> str:
    return ",".join(map(str, passes))


def _within(extra: Mapping[str, Passes] | Passes, names: Sequence[str]) -> Mapping[str, Passes] | Passes:
    """The user's passes that belong to some stages."""
    if not isinstance(extra, Mapping):
        return extra or {}
    return {place: passes for place, passes in extra.items() if place.partition(":")[2] in names}
