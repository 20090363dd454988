"""Every axis keeps a place, whatever order channels are removed in."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recfx.passes.prune.room import Room


class _Found:
    """Axes as lists that have a channel, or None, at each place."""

    def __init__(self, axes: list[list[int | None]]) -> None:
        self._axes = axes

    def vectors(self) -> list[list[int | None]]:
        return self._axes

    def members(self, axis: list[int | None]) -> tuple[Any, Any]:
        places = [place for place, channel in enumerate(axis) if channel is not None]
        return np.array(places, dtype=np.int64), np.array([axis[place] for place in places], dtype=np.int64)


def _room(*axes: list[int | None]) -> Room:
    found: Any = _Found(list(axes))
    return Room(found)


def test_the_last_channel_of_an_axis_stays() -> None:
    room = _room([0, 0, 1], [None, 1], [2])
    assert [room.fits(channel) for channel in range(4)] == [True, True, False, True]
    assert room.remove([0])
    assert not room.fits(1)
    assert not room.remove([1])
    assert room.removed == {0}
    assert room.remove([0])


def test_several_channels_are_removed_together_or_not_at_all() -> None:
    room = _room([0, 1, 2], [0, 1, 3])
    assert not room.remove([0, 1, 2])
    assert room.removed == set()
    assert room.remove([0, 1])
    assert room.removed == {0, 1}
    assert not room.remove([3])


@given(
    axes=st.lists(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=6), max_size=4),
    turns=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6),
)
def test_an_axis_loses_places_only_while_one_stays(axes: list[list[int | None]], turns: list[list[int]]) -> None:
    room, removed = _room(*axes), set[int]()
    counted = [axis for axis in axes if any(channel is not None for channel in axis)]
    for channels in turns:
        after = removed | set(channels)
        touched = [axis for axis in counted if not set(axis).isdisjoint(channels)]
        fits = all(any(channel is None or channel not in after for channel in axis) for axis in touched)
        assert room.remove(channels) == fits
        removed = after if fits else removed
        assert room.removed == removed
