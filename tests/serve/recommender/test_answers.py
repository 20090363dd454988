"""Answers of recommenders against the user's own models, candidate by candidate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recommender_kit import compiled, indexed, items, recommender, reference, same, users
from torch import nn

import recfx
from recfx.errors import InputError, RecfxError, TargetError
from recfx.retrieval import Index
from recfx.serve import Recommender

SOME = items(range(100, 160))


@pytest.mark.parametrize("form", ["plain", "one", "many"])
@pytest.mark.parametrize("kind", ["one-stage", "two-stage"])
def test_answers_are_those_of_the_models(form: str, kind: str) -> None:
    made = recommender(SOME, form, kind)
    for count in (1, 3):
        asked = users(count, count)
        same(made.recommend(asked), reference(SOME, asked, 5, 12, kind))
    empty = made.recommend(users(0))
    assert [part.shape for part in empty] == [(0, 5), (0, 5)]


@settings(max_examples=15)
@given(data=st.data())
def test_items_are_left_out_and_may_be_few(data: Any) -> None:
    count = data.draw(st.integers(1, 14))
    some = items(range(100, 100 + count), data.draw(st.integers(0, 9)))
    made = recommender(some, data.draw(st.sampled_from(["plain", "one", "many"])))
    number = data.draw(st.integers(1, 3))
    out = data.draw(st.lists(st.lists(st.integers(98, 115), min_size=4, max_size=4), min_size=number, max_size=number))
    exclude = torch.tensor(out)
    exclude[exclude == 98] = -1
    asked = users(number, data.draw(st.integers(0, 9)))
    found = made.recommend(asked, exclude)
    same(found, reference(some, asked, 5, 12, exclude=exclude))
    for ids, left_out in zip(found[1], exclude, strict=True):
        assert not {own for own in ids.tolist() if own >= 0} & set(left_out.tolist())


def test_numpy_inputs_and_narrow_integers() -> None:
    made, asked = recommender(SOME), users(2)
    as_numpy = {"user": asked["user"].int().numpy(), "mood": asked["mood"].numpy()}
    assert torch.equal(made.recommend(as_numpy)[1], made.recommend(asked)[1])


class Broken(nn.Module):
    """Scores that are not numbers for some items."""

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        return torch.log(item.float() - 2.0)


def test_scores_that_are_not_numbers_come_last() -> None:
    ranking = recfx.optimize(Broken().eval(), target="eager", example_inputs=(torch.arange(4) + 3,), measure=False)
    ids = torch.arange(8) + 10
    index = Index.from_embeddings(torch.randn(8, 8), 8, ids=ids)
    made = Recommender(compiled()[0], index, ranking, {"item": torch.arange(8)}, k=8, candidates=8)
    scores, found = made.recommend(users(1))
    assert found[0, :5].tolist() == [17, 16, 15, 14, 13]
    assert scores[0, 5:].isnan().sum() + scores[0, 5:].isneginf().sum() == 3


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"user": torch.tensor([1])}, "missing mood"),
    ({**users(1), "age": torch.tensor([1])}, "unknown age"),
    ({**users(1), "user": torch.tensor([1.0])}, "expected datatype INT64"),
    ({**users(1), "mood": torch.zeros(1, 3)}, r"expected shape \[-1, 2\]"),
    ({**users(1), "mood": torch.zeros(2, 2)}, "differ in their rows"),
    ({**users(1), "user": torch.tensor([40])}, "outside"),
    ({**users(1), "user": torch.tensor([-1])}, "outside"),
    ({**users(1), "exclude": torch.tensor([1])}, r"expected shape \[-1, -1\]"),
    ({**users(1), "exclude": torch.zeros(1, 2)}, "expected datatype INT64"),
    ({**users(1), "mood": torch.full((1, 2), torch.nan)}, "NaN"),
]


@pytest.mark.parametrize(("given_", "message"), BAD_REQUESTS)
def test_bad_requests_are_refused(given_: dict[str, Any], message: str) -> None:
    made = recommender(SOME)
    with pytest.raises(InputError, match=message):
        made.recommend(given_)
    same(made.recommend(users(1)), reference(SOME, users(1), 5, 12))


def _arguments(**changed: Any) -> dict[str, Any]:
    query, ranking = compiled()
    return {"query": query, "index": indexed(SOME), "ranking": ranking, "inputs": SOME.inputs, **changed}


class Matrix(nn.Module):
    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return torch.stack([user.float(), item.float()], 1)


def _matrix() -> recfx.CompiledModel:
    example = (torch.arange(4), torch.arange(4))
    return recfx.optimize(Matrix().eval(), target="eager", example_inputs=example, measure=False)


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[RecfxError], str]] = [
    ({"index": Index.from_embeddings(SOME.embedding, 8)}, InputError, "no ids of your own"),
    ({"index": Index.from_embeddings(torch.randn(60, 9), 8, ids=SOME.ids)}, TargetError, "vectors of 9 numbers"),
    ({"inputs": {}}, InputError, "needs an input of items"),
    ({"inputs": {**SOME.inputs, "embedding": SOME.embedding}}, InputError, "another name than"),
    ({"inputs": {**SOME.inputs, "age": torch.zeros(60)}}, InputError, "no input 'age'"),
    ({"inputs": {**SOME.inputs, "price": torch.zeros(60)}}, InputError, "expected FP32"),
    ({"inputs": {**SOME.inputs, "price": torch.zeros(59, 1)}}, InputError, "values for 60 items"),
    ({"inputs": {**SOME.inputs, "price": torch.full((60, 1), torch.inf)}}, InputError, "NaN or infinities"),
    ({"inputs": {**SOME.inputs, "item": torch.arange(60) + 150}}, InputError, "outside"),
    ({"k": 0}, InputError, "k is 0"),
    ({"candidates": True}, InputError, "candidates is True"),
    ({"k": 30, "candidates": 20}, InputError, "k = 30 items of 20 candidates"),
    ({"score": "other"}, InputError, "no output 'other'"),
    ({"ranking": _matrix(), "inputs": {"item": SOME.inputs["item"]}}, TargetError, "not one score"),
]


@pytest.mark.parametrize(("changed", "kind", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(changed: dict[str, Any], kind: type[RecfxError], message: str) -> None:
    with pytest.raises(kind, match=message):
        Recommender(**_arguments(**changed))


def test_an_input_that_is_not_of_items_is_one_of_users() -> None:
    made = Recommender(**_arguments(inputs={"item": SOME.inputs["item"]}), k=3, candidates=6)
    assert [info.name for info in made.inputs] == ["user", "mood", "price"]
    found = made.recommend({**users(2), "price": torch.rand(2, 1)})
    assert found[1].shape == (2, 3)


def test_the_example_fits() -> None:
    made = recommender(SOME, "one")
    assert {name: len(value) for name, value in made.example(9).items()} == {"user": 9, "mood": 9}
    made.recommend(made.example(9))
