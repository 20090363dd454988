"""How much a program needs each channel.

    l2, l1        the norm of the weights of a channel, over all layers that hold it
    activation    the energy that a channel contributes to what reads it: the mean square of its value times the squared norm of the
                  weights that multiply it, relative to all channels that are read there
    taylor        the mean square of the first-order change of the answer when a channel's value becomes zero

References: group norms as in DepGraph (Fang et al., CVPR 2023); activation times weight as in Wanda (Sun et al., ICLR 2024); first-order
importance of a gate as in Molchanov et al. (CVPR 2019), of the answer rather than of a loss, so that no labels are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from recfx.analysis.channel_axes import flat
from recfx.analysis.channel_groups import ChannelGroups, Group
from recfx.analysis.channel_walk import Reduction
from recfx.errors import InputError
from recfx.ir.program import Program, get_state
from recfx.passes.prune.calibration import along, batches, run_with

Scores = dict[int, float]


def weight_norms(program: Program, found: ChannelGroups, groups: list[Group], power: int) -> Scores:
    """The norms of channels: for each axis that a group has elements in, relative to the group's mean; then the mean over axes.

    Args:
        program: The program.
        found: Its coupled channels.
        groups: The groups to score.
        power: 1 or 2.

    Raises:
        InputError: A weight has NaN or infinities.
    """
    scores: Scores = {}
    for group in groups:
        total = np.zeros(len(group.channels))
        matrices = [place for place in group.places if get_state(program.module, place.name).ndim > 1]
        for place in matrices or group.places:
            tensor = get_state(program.module, place.name).detach()
            _require_finite(tensor, place.name)
            of_places = along(tensor.double().abs().pow(power), place.axis).sum(0)
            own = _by_channel(found, found.state_axis(place), of_places)
            norms = np.array([own.get(channel, 0.0) for channel in group.channels])
            total += norms / max(norms.mean(), np.finfo(float).tiny)
        count = len(matrices or group.places)
        scores.update(zip(group.channels, ((total / count) ** (1 / power)).tolist(), strict=True))
    return scores


def _require_finite(tensor: Tensor, name: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise InputError(
            "a weight has NaN or infinities, so that its channels have no importance",
            where=name,
            hint="repair the checkpoint, or leave out prune-channels",
        )


def _by_channel(found: ChannelGroups, axis: Any, of_places: Tensor) -> Scores:
    """Sums over the places of each channel."""
    labels = flat(found.labels, axis)
    if labels is None:
        return {}
    sums: Scores = {}
    for label, number in zip(labels.tolist(), of_places.tolist(), strict=True):
        for channel in found.channels_of(label):
            sums[channel] = sums.get(channel, 0.0) + number
    return sums


def activation_energies(program: Program, found: ChannelGroups, data: Any) -> Scores:
    """Mean squares of values times squared norms of the weights that multiply them, relative to each reader's sum over all places.

    Raises:
        InputError: The calibration data is empty, has NaN, or does not fit.
    """
    squares: dict[tuple[fx.Node, int], Tensor] = {}
    rows: dict[tuple[fx.Node, int], int] = {}
    reads = _by_node(found)

    def record(node: fx.Node, values: dict[fx.Node, Any]) -> Mapping[fx.Node, Any]:
        for read in reads.get(node, ()):
            if read.operand.op != "get_attr":
                flat_values = along(values[read.operand], read.axis).double()
                key = read.operand, read.axis
                squares[key] = squares.get(key, 0.0) + flat_values.square().sum(0)
                rows[key] = rows.get(key, 0) + len(flat_values)
        return {}

    with torch.no_grad():
        for leaves in batches(program, data):
            run_with(program, leaves, record)
    scores: Scores = {}
    for own in reads.values():
        energy: Tensor | float = 1.0
        for read in own:
            key = read.operand, read.axis
            if read.operand.op == "get_attr":
                tensor = get_state(program.module, str(read.operand.target)).detach().double()
                factor = along(tensor, read.axis).square().sum(0)
            else:
                factor = squares[key] / max(rows[key], 1)
            energy = factor if isinstance(energy, float) or len(energy) != len(factor) else energy * factor
        assert isinstance(energy, Tensor)
        shares = energy / energy.sum().clamp(min=torch.finfo(torch.float64).tiny)
        for channel, share in _by_channel(found, found.axes(own[0].operand)[own[0].axis], shares).items():
            scores[channel] = scores.get(channel, 0.0) + share
    return scores


def _by_node(found: ChannelGroups) -> dict[fx.Node, list[Reduction]]:
    reads: dict[fx.Node, list[Reduction]] = {}
    for read in found.reductions:
        reads.setdefault(read.node, []).append(read)
    return reads


def answer_changes(program: Program, found: ChannelGroups, data: Any) -> Scores:
    """The mean square, over rows, of the first-order change of the answer when a channel is zero in what reads it.

    Raises:
        InputError: The calibration data is empty, has NaN, or does not fit; or no output depends on a channel.
    """
    reads = _by_node(found)
    gates: dict[tuple[fx.Node, int], _Gates] = {}
    scores: Scores = {}
    with torch.enable_grad():
        for leaves in batches(program, data):
            _add_changes(program, found, reads, gates, leaves, scores)
    return scores


class _Gates:
    """The channels of the places of an axis.

    Args:
        found: The coupled channels.
        axis: The axis.

    Attributes:
        places: Places, one for each channel of each place.
        channels: The channel of each of them.
    """

    def __init__(self, found: ChannelGroups, axis: Any) -> None:
        labels = flat(found.labels, axis)
        listed = [] if labels is None else labels.tolist()
        pairs = [(place, channel) for place, label in enumerate(listed) for channel in found.channels_of(label)]
        self.places, self.channels = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()


def _add_changes(
    program: Program,
    found: ChannelGroups,
    reads: dict[fx.Node, list[Reduction]],
    gates: dict[tuple[fx.Node, int], _Gates],
    leaves: list[Any],
    scores: Scores,
) -> None:
    used: list[tuple[Reduction, Tensor]] = []

    def gate(node: fx.Node, values: dict[fx.Node, Any]) -> Mapping[fx.Node, Any]:
        others: dict[fx.Node, Any] = {}
        for read in reads.get(node, ()):
            held = values[read.operand]
            if read.operand.op != "get_attr" and isinstance(held, Tensor) and held.is_floating_point():
                if read.operand not in others:
                    others[read.operand] = held * 1.0 if held.requires_grad else held.detach().requires_grad_()
                used.append((read, others[read.operand]))
        return others

    outputs = run_with(program, leaves, gate)
    answers = [o.double().sum() for o in outputs if isinstance(o, Tensor) and o.is_floating_point() and o.requires_grad]
    if not answers or not used:
        return
    answer = torch.stack(answers).sum()
    gradients = torch.autograd.grad(answer, [held for _, held in used], allow_unused=True)
    for read, _ in used:
        if (read.operand, read.axis) not in gates:
            gates[read.operand, read.axis] = _Gates(found, found.axes(read.operand)[read.axis])
    known = torch.cat([gates[read.operand, read.axis].channels for read, _ in used]).unique()
    changes: dict[int, Tensor] = {}
    for (read, held), gradient in zip(used, gradients, strict=True):
        own = gates[read.operand, read.axis]
        if gradient is None or not len(own.channels):
            continue
        change = (held.detach() * gradient).double().movedim(read.axis, -1)
        lead = change.shape[0] if change.ndim > 1 else 1
        rows = change.reshape(lead, -1, change.shape[-1]).sum(1)
        total = changes.setdefault(lead, torch.zeros(len(known), lead, dtype=torch.float64))
        total.index_add_(0, torch.searchsorted(known, own.channels), rows.T[own.places])
    for total in changes.values():
        for channel, score in zip(known.tolist(), total.square().sum(1).tolist(), strict=True):
            scores[channel] = scores.get(channel, 0.0) + score
