"""Chooses which channels a program loses, by their importance and by the amount to remove."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from recfx.analysis.channel_groups import ChannelGroups, Group
from recfx.errors import InputError
from recfx.passes.prune.baked_sizes import Remaining
from recfx.passes.prune.costs import Cost
from recfx.passes.prune.room import Room

#: Steps of the bisection for amounts that are not channels.
_STEPS = 12

#: Group -> its channels to remove.
Choice = dict[Group, list[int]]


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A group with its channels in ascending order of importance.

    Attributes:
        group: The group.
        channels: Its channels, the least important first.
        scores: Their importances.
        step: The number of remaining channels is a multiple of this, or the number of all channels.
        gone: The number of channels that it lost before, which count as a part of it.
    """

    group: Group
    channels: tuple[int, ...]
    scores: tuple[float, ...]
    step: int
    gone: int = 0

    @property
    def total(self) -> int:
        """The number of channels that the group had at first."""
        return len(self.channels) + self.gone

    def removable(self, wanted: float) -> int:
        """The number of channels that go if `wanted` of the channels at first should be gone."""
        kept = math.ceil(max(self.total - wanted, 1) / self.step - 1e-9) * self.step
        return max(len(self.channels) - kept, 0)


def ranked(group: Group, scores: dict[int, float], elements: int, round_to: int, gone: int = 0) -> Ranked:
    """A group in the order of importance.

    Args:
        group: The group.
        scores: Channel -> importance; channels without an entry have none.
        elements: The number of elements that a channel has along an axis.
        round_to: The number that the sizes of axes should be multiples of.
        gone: The number of channels that the group lost before.
    """
    order = sorted(group.channels, key=lambda channel: scores.get(channel, 0.0))
    values = tuple(scores.get(channel, 0.0) for channel in order)
    return Ranked(group, tuple(order), values, round_to // math.gcd(round_to, elements), gone)


def by_layer(groups: Sequence[Ranked], ratio: float) -> list[int]:
    """How many channels each group loses if each loses the same part."""
    return [own.removable(ratio * own.total) for own in groups]


def by_importance(groups: Sequence[Ranked], ratio: float) -> list[int]:
    """How many channels each group loses if the least important channels of all groups go."""
    everything = sorted((score, number) for number, own in enumerate(groups) for score in own.scores)
    wanted = [own.gone for own in groups]
    least = max(round(ratio * sum(own.total for own in groups)) - sum(wanted), 0)
    for _, number in everything[:least]:
        wanted[number] += 1
    return [own.removable(count) for own, count in zip(groups, wanted, strict=True)]


def choose(
    found: ChannelGroups,
    groups: Sequence[Ranked],
    counts: Callable[[Sequence[Ranked], float], list[int]],
    ratio: float,
    cost: Cost | None,
    unit: str,
    whole: float | None = None,
) -> Choice:
    """The channels to remove.

    Args:
        found: The coupled channels.
        groups: The groups that may lose channels.
        counts: `by_layer` or `by_importance`.
        ratio: The part to remove.
        cost: What `ratio` is a part of; None for the number of channels.
        unit: The name of the cost, for errors.
        whole: The cost of which `ratio` is a part; by default that of the program.

    Raises:
        InputError: The cost cannot fall so far.
    """
    if cost is None:
        return _take(found, groups, counts(groups, ratio))
    whole = cost(Remaining(found, ())) if whole is None else whole
    limit = (1 - ratio) * whole

    def left(part: float) -> float:
        return cost(Remaining(found, _flat(_take(found, groups, counts(groups, part)))))

    least = left(1.0)
    if least > limit:
        raise InputError(
            f"ratio={ratio:g} of the {unit} cannot be removed: channels that may be removed hold {1 - least / whole:.3f} of them",
            where="prune-channels",
            hint="ask for less, lower round_to, or add kinds of channels, as in kinds=[channels, columns]",
        )
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= limit else (middle, high)
    return _take(found, groups, counts(groups, high))


def _take(found: ChannelGroups, groups: Sequence[Ranked], counts: Sequence[int]) -> Choice:
    room = Room(found)
    chosen: Choice = {}
    for own, count in zip(groups, counts, strict=True):
        for channel in own.channels[:count]:
            if room.remove([channel]):
                chosen.setdefault(own.group, []).append(channel)
    return chosen


def _flat(choice: Choice) -> list[int]:
    return [channel for channels in choice.values() for channel in channels]
