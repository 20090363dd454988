"""prune-channels: the least important channels are removed from all layers that hold them.

    linear(relu(linear(x, W1 [N, K], b1)), W2 [M, N])  -> linear(relu(linear(x, W1' [N', K], b1')), W2' [M, N'])

With the resource "unpruned", the program before earlier prunings, the ratio is a part of that program and counts what is gone already.
With the resource "channel-scores", from `answer_scores`, importance "taylor" is not measured again for groups that are still whole.

A channel is removed wherever `recfx.analysis.channel_groups` finds it: in the norms, residuals, concatenations, attention heads, recurrent
layers and tied weights that hold its elements. The result equals the original program whose operators leave the channel out of every sum.

Requires: functional; run it before operators of the dialect are formed. Exactness: APPROX.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from recfx.analysis.channel_axes import flat
from recfx.analysis.channel_groups import ChannelGroups, Group, Kind, channel_groups
from recfx.errors import InputError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program, get_state
from recfx.passes._kept import KEPT, require_known
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.prune.baked_sizes import Remaining
from recfx.passes.prune.bias_shift import remove_and_shift, shift_of
from recfx.passes.prune.calibration import along, batches, run_with
from recfx.passes.prune.choose_channels import Ranked, by_importance, by_layer, choose, ranked
from recfx.passes.prune.costs import Cost, multiply_adds, state_bytes
from recfx.passes.prune.dead_channels import first_use
from recfx.passes.prune.importance import Scores, activation_energies, answer_changes, weight_norms
from recfx.passes.prune.known_scores import KnownScores
from recfx.pipeline import Pass, PassContext, PassSpec, register

_aten = torch.ops.aten
_RULE = "channels"
_KINDS = {kind.name.lower(): kind for kind in Kind}
_CALIBRATED = ("taylor", "activation")


@register
@dataclass(frozen=True)
class PruneChannels(Pass):
    """Removes the least important channels.

    Attributes:
        ratio: The part to remove, above 0 and below 1.
        amount: What `ratio` is a part of: the channels of each group or of all groups; the multiply-adds of one row; or the bytes of
            parameters.
        importance: "l2" and "l1" (norms of weights), "activation" and "taylor" (these two need calibration data), see `importance.py`.
        ranking: "layer" removes the same part of each group, "global" the least important channels of all groups.
        round_to: The number that the remaining sizes are multiples of; groups that cannot keep a multiple stay whole. The default is the
            widest vector of the kernels in float32 numbers.
        kinds: Which channels: "channels" that layers compute, "columns" of embedding tables, "parts" (whole fields, pairs of fields,
            experts and heads).
        keep_means: Whether linears that read a removed channel get its mean over the calibration data as a part of their bias.
        keep: Names of groups that stay whole, as `group_names` gives them.

    Raises:
        InputError: An option has another value, or, in `run`, `keep` names no group.
    """

    spec = PassSpec(
        "prune-channels",
        "Removes the least important channels.",
        exactness=Exactness.APPROX,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused", "linears-fused", "linears-joined"}),
        forbids=QUANTISED,
        idempotent=False,
    )

    ratio: float = 0.5
    amount: Literal["channels", "multiply-adds", "bytes"] = "channels"
    importance: Literal["l2", "l1", "activation", "taylor"] = "l2"
    ranking: Literal["layer", "global"] = "layer"
    round_to: int = 16
    kinds: tuple[str, ...] = ("channels",)
    keep_means: bool = False
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InputError(
                f"prune-channels cannot remove ratio={self.ratio} of the channels",
                hint="give a part above 0 and below 1; without pruning, leave out the pass",
            )
        if self.round_to < 1:
            raise InputError(f"sizes cannot be multiples of round_to={self.round_to}", hint="give 1 or more")
        if not self.kinds or not set(self.kinds) <= _KINDS.keys():
            raise InputError(
                f"unknown kinds of channels in kinds={list(self.kinds)}", hint=f"use some of {', '.join(_KINDS)}"
            )
        if self.importance in _CALIBRATED or self.keep_means:
            object.__setattr__(self, "spec", dataclasses.replace(type(self).spec, needs=frozenset({"calibration"})))

    def run(self, program: Program, ctx: PassContext) -> None:
        found = channel_groups(program)
        for node, reason in found.misses().items():
            ctx.miss(_RULE, node, reason)
        whole: Program | None = ctx.resources.get("unpruned")
        groups = self._ranked(ctx, found, whole)
        cost = self._cost(program, found)
        all_cost = None if whole is None or cost is None else self._cost_of_all(whole)
        counts = by_layer if self.ranking == "layer" else by_importance
        chosen = choose(found, groups, counts, self.ratio, cost, self.amount, all_cost) if groups else {}
        allowed = {g: channels for g, channels in chosen.items() if ctx.gate(_RULE, first_use(ctx, g))}
        removed = [channel for channels in allowed.values() for channel in channels]
        if removed:
            shifts = self._shifts(ctx, found, removed) if self.keep_means else {}
            remove_and_shift(ctx, found, removed, shifts)

    def _cost(self, program: Program, found: ChannelGroups) -> Cost | None:
        costs = {"multiply-adds": multiply_adds, "bytes": state_bytes}
        return costs[self.amount](program, found) if self.amount in costs else None

    def _cost_of_all(self, program: Program) -> float | None:
        found = channel_groups(program)
        cost = self._cost(program, found)
        return None if cost is None else cost(Remaining(found, ()))

    def _ranked(self, ctx: PassContext, found: ChannelGroups, whole: Program | None = None) -> list[Ranked]:
        wanted = self._wanted(ctx, found)
        scores = self._scores(ctx, found, wanted) if wanted else {}
        groups = []
        for group in wanted:
            elements = _elements(found, group)
            gone = 0 if whole is None else _gone(ctx.program, group, whole) // elements
            groups.append(ranked(group, scores, elements, self.round_to, gone))
        for own in groups:
            if not own.removable(own.total):
                reason = (
                    f"a group of {len(own.channels)} channels cannot become smaller and stay a multiple of {own.step}"
                )
                ctx.miss(_RULE, first_use(ctx, own.group), reason)
        return groups

    def _wanted(self, ctx: PassContext, found: ChannelGroups) -> list[Group]:
        """The groups of the wanted kinds that `keep` does not name."""
        names = group_names(found)
        require_known(self.keep, names.values(), self.spec.name)
        wanted = []
        for group in found.groups:
            if _KINDS_OF[group.kind] not in self.kinds:
                continue
            if names[group] in self.keep:
                ctx.miss(_RULE, first_use(ctx, group), KEPT)
            else:
                wanted.append(group)
        return wanted

    def _scores(self, ctx: PassContext, found: ChannelGroups, groups: list[Group]) -> Scores:
        norms = weight_norms(ctx.program, found, groups, 1 if self.importance == "l1" else 2)
        data = ctx.resources.get("calibration")
        if self.importance == "activation":
            return activation_energies(ctx.program, found, data)
        if self.importance != "taylor":
            return norms
        known: KnownScores | None = ctx.resources.get("channel-scores")
        scores = None if known is None else known.scores(groups, group_names(found))
        return answer_changes(ctx.program, found, data) if scores is None else scores

    def _shifts(self, ctx: PassContext, found: ChannelGroups, removed: list[int]) -> dict[fx.Node, Tensor]:
        """What linears lose with the means of removed channels."""
        means = _means(ctx, found)
        shifts = {}
        for linear, mean in means.items():
            source: Any = linear.args[0]
            kept = found.kept_along(found.axes(source)[-1], removed, len(mean))
            if kept is not None:
                places = [place for place, stays in enumerate(kept.tolist()) if not stays]
                shifts[linear] = shift_of(ctx, linear, places, mean[places])
        return shifts


def group_names(found: ChannelGroups) -> dict[Group, str]:
    """Group -> its name: its first weight and the axis of its channels there, "top.0.weight:0"; "#2" follows for the next of that name."""
    names: dict[Group, str] = {}
    for group in found.groups:
        place = group.places[0]
        stem = name = f"{place.name}:{place.axis}"
        number = 1
        while name in names.values():
            number += 1
            name = f"{stem}#{number}"
        names[group] = name
    return names


def answer_scores(program: Program, data: Any) -> KnownScores:
    """The importances "taylor" of all channels, to be used again for programs that passes make of this one.

    Args:
        program: The program.
        data: Calibration data.

    Raises:
        InputError: See `answer_changes`.
    """
    found = channel_groups(program)
    return KnownScores.of(group_names(found), answer_changes(program, found, data) if found.groups else {})


def _means(ctx: PassContext, found: ChannelGroups) -> dict[fx.Node, Tensor]:
    """The means of the inputs of linears with stored weights, float64 [K]."""
    linears = {
        read.node
        for read in found.reductions
        if read.node.target is _aten.linear.default
        and all(
            ctx.tensor(given) is not None
            for given in (*read.node.args[1:], *read.node.kwargs.values())
            if given is not None
        )
    }
    sums: dict[fx.Node, Tensor] = {}
    rows: dict[fx.Node, int] = {}

    def record(node: fx.Node, values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        if node in linears:
            held = along(values[node.args[0]], -1).double()  # type: ignore[index]
            sums[node] = sums.get(node, held.new_zeros(held.shape[1])) + held.sum(0)
            rows[node] = rows.get(node, 0) + len(held)
        return {}

    with torch.no_grad():
        for leaves in batches(ctx.program, ctx.resources.get("calibration")):
            run_with(ctx.program, leaves, record)
    return {node: total / max(rows[node], 1) for node, total in sums.items()}


def _elements(found: ChannelGroups, group: Group) -> int:
    """The number of elements that a channel of a group has along its first axis."""
    labels = flat(found.labels, found.state_axis(group.places[0]))
    if labels is None:
        return 1
    return max(sum(group.channels[0] in found.channels_of(label) for label in labels.tolist()), 1)


def _gone(program: Program, group: Group, whole: Program) -> int:
    """The number of elements that the first axis of a group lost since a program before.

    Raises:
        InputError: That program does not hold the group's parameter, or a smaller one.
    """
    place = group.places[0]
    before, now = whole.state().get(place.name), get_state(program.module, place.name)
    if before is None or before.ndim != now.ndim or before.shape[place.axis] < now.shape[place.axis]:
        raise InputError(
            "the program is not what pruning left of the program in resources['unpruned']",
            where=place.name,
            hint="give the program before the first pruning, or leave the resource out",
        )
    return int(before.shape[place.axis]) - int(now.shape[place.axis])


_KINDS_OF = {kind: name for name, kind in _KINDS.items()}
