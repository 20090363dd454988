"""remove-dead-channels: channels that contribute nothing, or a constant, to what reads them are removed.

    linear(relu(linear(x, W1, b1)), W2, b2)  -> linear(relu(linear(x, W1', b1')), W2', b2')

without the rows of W1 and the columns of W2 of a channel

    whose column of W2 is zero (nothing reads it)
    whose row of W1 is zero, so that its value is relu(b1): W2 relu(b1) goes into b2
    that ReLU sets to zero for all inputs, since W1 x + b1 <= 0 for all values that x can have: x may be a ReLU or a sigmoid
    whose batch norm has a scale of zero, likewise
    that no slice, selection or split of the value takes

through all operators that `recfx.analysis.channel_groups` follows. Layers of which all channels are dead keep one.

Requires: functional. Exactness: REASSOC (biases are computed in float64 and rounded once). Infinite activations are not covered: a weight
of zero times infinity is NaN, and the removed channel no longer gives it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from recfx.analysis.channel_groups import Group, channel_groups
from recfx.ir.numeric import Exactness
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes._properties import CANONICAL, QUANTISED
from recfx.passes.prune.bias_shift import remove_and_shift, shift_of
from recfx.passes.prune.channel_ranges import CHANNELWISE, Range, channel_ranges, zero_slices
from recfx.passes.prune.dead_channels import DeadChannels, Verdict, constant_of, first_use
from recfx.passes.prune.room import Room
from recfx.passes.prune.unread_places import has_unread_places
from recfx.pipeline import Pass, PassContext, PassSpec, register

_RULE = "dead"


@register
class RemoveDeadChannels(Pass):
    """Removes channels that contribute nothing, or a constant, to what reads them."""

    spec = PassSpec(
        "remove-dead-channels",
        "Removes channels that are zero, constant or never read.",
        exactness=Exactness.REASSOC,
        changes_state=True,
        prefers=CANONICAL,
        avoids=frozenset({"lookups-fused", "linears-fused"}),
        forbids=QUANTISED,
    )

    def run(self, program: Program, ctx: PassContext) -> None:
        earlier = len(ctx.misses)
        while True:  # a removed channel may leave others without readers
            del ctx.misses[earlier:]
            ranges = channel_ranges(ctx)
            if not _may_have_dead_channels(ctx, ranges) or not _remove_some(ctx, ranges):
                return


def _may_have_dead_channels(ctx: PassContext, ranges: dict[fx.Node, Range]) -> bool:
    """Whether an operator that sums channels reads a constant one, a weight has zeros only for one channel, or nothing reads a channel.

    This is much quicker than finding the channels. A gate with constant channels, for example, is only multiplied by other values.
    """
    if any(_is_summed(node) and bool(known.constant.any()) for node, known in ranges.items()):
        return True
    if has_unread_places(ctx.graph):
        return True
    return any(
        tensor is not None and tensor.ndim > 1 and tensor.is_floating_point() and _has_zero_slice(tensor)
        for tensor in {id(t): t for t in map(ctx.tensor, _contracted(ctx))}.values()
    )


def _is_summed(node: fx.Node) -> bool:
    """Whether an operator reads a computed value and may sum its channels."""
    return node.op == "call_function" and any(
        user.op == "call_function" and user.target not in CHANNELWISE for user in node.users
    )


def _contracted(ctx: PassContext) -> Iterable[fx.Node]:
    """The parameters that operators other than lookups read."""
    for read in ctx.graph.find_nodes(op="get_attr"):
        if any(user.target not in TABLE_LOOKUPS for user in read.users):
            yield read


def _has_zero_slice(tensor: torch.Tensor) -> bool:
    return any(bool(zero_slices(tensor, axis).any()) for axis, size in enumerate(tensor.shape) if size > 1)


def _remove_some(ctx: PassContext, ranges: dict[fx.Node, Range]) -> bool:
    """Removes the dead channels that are seen now; returns whether there were any."""
    found = channel_groups(ctx.program)
    dead, room = DeadChannels(ctx, found, ranges), Room(found)
    folds: dict[fx.Node, set[int]] = {}
    for group in found.groups:
        use = first_use(ctx, group)
        candidates = _candidates(ctx, dead, group, use)
        if not any(map(room.fits, candidates)):
            if candidates:
                ctx.miss(_RULE, use, "all channels of an axis are dead, and one must stay")
        elif ctx.gate(_RULE, use):
            for channel, verdict in candidates.items():
                if room.remove([channel]):
                    for linear, place in verdict.folds:
                        folds.setdefault(linear, set()).add(place)
    if not room.removed:
        return False
    shifts = {
        linear: shift_of(ctx, linear, sorted(places), constant_of(ranges, linear, sorted(places)))
        for linear, places in folds.items()
    }
    remove_and_shift(ctx, found, room.removed, shifts)
    return True


def _candidates(ctx: PassContext, dead: DeadChannels, group: Group, use: fx.Node) -> dict[int, Verdict]:
    """The dead channels of a group. Misses name one reason for each operator that needs a constant channel."""
    found: dict[int, Verdict] = {}
    refused: dict[fx.Node, str] = {}
    for channel in group.channels:
        verdict = dead.verdict(channel)
        if verdict is not None and verdict.refused is None:
            found[channel] = verdict
        elif verdict is not None:
            refused.setdefault(verdict.at or use, verdict.refused or "")
    for node, reason in refused.items():
        ctx.miss(_RULE, node, reason)
    return found
