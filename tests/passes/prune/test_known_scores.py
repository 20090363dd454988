"""Importances that were measured once: the same channels go as if they were measured again, and lost channels are noticed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recfx.analysis.channel_groups import channel_groups
from recfx.capture import capture
from recfx.ir.program import Program
from recfx.passes.prune import prune_channels
from recfx.passes.prune.known_scores import KnownScores
from recfx.passes.prune.prune_channels import PruneChannels, answer_scores, group_names
from recfx.pipeline import Pipeline

HALF = PruneChannels(0.5, importance="taylor", round_to=1)


def _captured() -> Program:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    return capture(model.eval(), (torch.randn(4, 6),))


def _data() -> list[tuple[torch.Tensor]]:
    return [(torch.randn(32, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)]


def _run(program: Program, item: PruneChannels, **more: object) -> Program:
    resources = {"calibration": _data(), **more}
    return Pipeline([item]).run(program, resources=resources, reproducer=False).program


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each measurement of importances."""
    calls: list[int] = []
    measure = prune_channels.answer_changes

    def counted(*args: object) -> object:
        calls.append(1)
        return measure(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prune_channels, "answer_changes", counted)
    return calls


def test_known_scores_remove_the_same_channels_without_measuring(measured: list[int]) -> None:
    program = _captured()
    want = _run(program, HALF).state()
    known = answer_scores(program, _data())
    before = len(measured)
    got = _run(program, HALF, **{"channel-scores": known}).state()
    assert len(measured) == before == 2
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_known_scores_count_for_groups_that_are_still_whole(measured: list[int]) -> None:
    program = _captured()
    known = answer_scores(program, _data())
    names = list(group_names(channel_groups(program)).values())
    first, second = "0.weight:0", "2.weight:0"
    assert {first, second} <= set(names)
    keep = {name: tuple(n for n in names if n != name) for name in (first, second)}
    own = PruneChannels(0.5, importance="taylor", round_to=1, keep=keep[first])
    other = PruneChannels(0.25, importance="taylor", round_to=1, keep=keep[second])
    smaller = _run(program, own, **{"channel-scores": known})
    smallest = _run(smaller, other, **{"channel-scores": known})
    assert len(measured) == 1
    kept = sorted(range(8), key=lambda place: known.values[second][place])[2:]
    assert torch.equal(smallest.state()["2.bias"], program.state()["2.bias"][sorted(kept)])
    _run(smallest, own, **{"channel-scores": known})  # this group has lost channels: measured again
    assert len(measured) == 2


def test_an_unknown_group_has_no_known_scores() -> None:
    found = channel_groups(_captured())
    assert KnownScores({}).scores(found.groups, group_names(found)) is None
    assert KnownScores({}).scores([], {}) == {}
