"""Numbers of channels to remove: rounding, rankings, amounts."""

from __future__ import annotations

import pytest
from channel_cases import VIEWS, Graph
from hypothesis import given
from hypothesis import strategies as st

from recfx.analysis.channel_groups import Group, Kind, channel_groups
from recfx.errors import InputError
from recfx.passes.prune.choose_channels import by_importance, by_layer, choose, ranked


def group(*scores: float, step: int = 1) -> object:
    channels = tuple(range(len(scores)))
    return ranked(Group((), channels, Kind.CHANNELS), dict(enumerate(scores)), 1, step)


@given(st.integers(1, 70), st.integers(0, 90), st.integers(1, 20))
def test_what_remains_is_a_multiple_or_the_whole(count: int, wanted: int, step: int) -> None:
    gone = group(*([1.0] * count), step=step).removable(wanted)  # type: ignore[attr-defined]
    assert 0 <= gone <= min(wanted, count - 1)
    assert gone == 0 or (count - gone) % step == 0
    assert gone == 0 or gone + step > min(wanted, count - 1)


def test_the_least_important_come_first() -> None:
    own = group(3.0, 1.0, 2.0)
    assert own.channels == (1, 2, 0)  # type: ignore[attr-defined]
    assert own.scores == (1.0, 2.0, 3.0)  # type: ignore[attr-defined]


def test_elements_of_a_channel_count_for_the_multiple() -> None:
    channels = Group((), (0, 1, 2, 3), Kind.CHANNELS)
    assert ranked(channels, {}, 8, 16).step == 2
    assert ranked(channels, {}, 3, 16).step == 16
    assert ranked(channels, {}, 32, 16).step == 1


def test_rankings() -> None:
    groups = [group(1, 2, 3, 4), group(10, 20, 30, 40)]
    assert by_layer(groups, 0.5) == [2, 2]  # type: ignore[arg-type]
    assert by_importance(groups, 0.375) == [3, 0]  # type: ignore[arg-type]
    assert by_importance(groups, 0.99) == [3, 3]  # type: ignore[arg-type]


def test_no_axis_becomes_empty_when_groups_share_one() -> None:
    found = channel_groups(VIEWS["overlapping slices"].build(Graph()))
    groups = [ranked(own, {}, 1, 1) for own in found.groups]
    chosen = choose(found, groups, lambda all_groups, ratio: [2, 2, 2], 0.5, None, "channels")
    removed = {channel for channels in chosen.values() for channel in channels}
    for vector in found.vectors():
        assert found.kept(vector, removed).any()


def test_an_amount_beyond_what_can_go_is_refused() -> None:
    found = channel_groups(VIEWS["chain"].build(Graph()))
    groups = [ranked(own, {}, 1, 1) for own in found.groups]
    with pytest.raises(InputError, match="cannot be removed") as caught:
        choose(found, groups, by_layer, 0.9, lambda remaining: 1.0, "bytes")
    assert "kinds" in caught.value.hint
