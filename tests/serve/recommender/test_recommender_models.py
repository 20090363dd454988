"""The model that scores candidates: one call for all users where the model takes their rows side by side, else one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recommender_kit import compiled, items, modules, users

from recfx.serve.recommender.item_inputs import ItemInputs
from recfx.serve.recommender.models import RankingModel

SOME = items(range(100, 120)).inputs
POSITIONS = torch.tensor([[3, 0, -1], [-1, 7, 19]])


def counted(model: RankingModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of inputs of the calls of a model, as they are made."""
    calls: list[int] = []
    call = model.interface.call

    def counting(leaves: Sequence[Any], *rest: Any) -> Any:
        calls.append(len(leaves))
        return call(leaves, *rest)

    monkeypatch.setattr(model.interface, "call", counting)
    return calls


@pytest.mark.parametrize(("form", "number"), [("plain", 1), ("one", 2), ("many", 1)])
def test_the_calls_for_two_users(form: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RankingModel(compiled(form)[1], SOME, None)
    calls, given = counted(model, monkeypatch), users(2)
    found = model.scores(None, given, ItemInputs(SOME), POSITIONS)  # type: ignore[arg-type]
    assert len(calls) == number
    for user, positions in enumerate(POSITIONS):
        real = positions >= 0
        chosen = {name: value[positions[real]] for name, value in SOME.items()}
        own = {name: value[user].expand(len(positions[real]), *value.shape[1:]) for name, value in given.items()}
        torch.testing.assert_close(found[user, real], modules()[1](**own, **chosen))
        assert (found[user, ~real] == -torch.inf).all()


@pytest.mark.parametrize(
    ("form", "positions", "number"), [("one", [[-1, -1], [2, -1]], 1), ("one", [[1, 2]], 1), ("plain", [[-1], [-1]], 0)]
)
def test_users_without_candidates_take_no_call(
    form: str, positions: list[list[int]], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RankingModel(compiled(form)[1], SOME, None)
    calls, at = counted(model, monkeypatch), torch.tensor(positions)
    found = model.scores(None, users(len(at)), ItemInputs(SOME), at)  # type: ignore[arg-type]
    assert len(calls) == number
    assert torch.equal(found > -torch.inf, at >= 0)
