"""How many places each axis keeps while channels are chosen, so that no axis becomes empty."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from recfx.analysis.channel_groups import ChannelGroups, Mask
from recfx.analysis.channel_labels import Vector


class Room:
    """The remaining places of all axes.

    Args:
        found: The coupled channels of a program.

    Attributes:
        removed: The channels removed so far.
    """

    def __init__(self, found: ChannelGroups) -> None:
        self.removed: set[int] = set()
        self._alive: list[Mask] = []
        self._places: dict[int, list[tuple[int, Vector]]] = {}
        for vector in found.vectors():
            places, channels = found.members(vector)
            if not len(places):
                continue
            number = len(self._alive)
            self._alive.append(np.ones(len(vector), dtype=bool))
            order = np.argsort(channels, kind="stable")
            names, starts = np.unique(channels[order], return_index=True)
            for channel, own in zip(names.tolist(), np.split(places[order], starts[1:]), strict=True):
                self._places.setdefault(channel, []).append((number, own))

    def fits(self, channel: int) -> bool:
        """Whether every axis keeps a place without one more channel."""
        return self._without([channel]) is not None

    def remove(self, channels: Collection[int]) -> bool:
        """Removes channels if every axis keeps a place; otherwise removes none of them and returns False."""
        changed = self._without(channels)
        if changed is None:
            return False
        for number, alive in changed.items():
            self._alive[number] = alive
        self.removed.update(channels)
        return True

    def _without(self, channels: Collection[int]) -> dict[int, Mask] | None:
        changed: dict[int, Mask] = {}
        for channel in channels:
            for number, places in self._places.get(channel, ()):
                alive = changed.setdefault(number, self._alive[number].copy())
                alive[places] = False
        return changed if all(alive.any() for alive in changed.values()) else None
