"""A recommender of small models, its plain reference, and changes of its items."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

import recfx
from recfx.retrieval import Index, TwoStageIndex
from recfx.serve import Items, Recommender

USERS, ROWS, DIM = 40, 200, 8
TABLES = ("query.users.weight", "ranking.items.weight")


class Tower(nn.Module):
    """The vector of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, DIM)
        self.mood = nn.Linear(2, DIM)

    def forward(self, user: Tensor, mood: Tensor) -> Tensor:
        return self.users(user) + self.mood(mood)


class Ranker(nn.Module):
    """A score for each user and item."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, DIM)
        self.items = nn.Embedding(ROWS, DIM)
        self.head = nn.Sequential(nn.Linear(2 * DIM + 3, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user: Tensor, mood: Tensor, item: Tensor, price: Tensor) -> Tensor:
        return self.head(torch.cat([self.users(user), self.items(item), mood, price], 1)).squeeze(1)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def users(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of users."""
    g = draw(seed)
    return {"user": torch.randint(0, USERS, (count,), generator=g), "mood": torch.randn(count, 2, generator=g)}


def items(ids: Any, seed: int = 0) -> Items:
    """Items with ids 100 and above; the row of an item in the ranking model's table is its id less 100."""
    own, g = torch.as_tensor(ids, dtype=torch.int64), draw(seed)
    vectors = torch.randn(len(own), DIM, generator=g)
    return Items(own, vectors, {"item": (own - 100) % ROWS, "price": torch.rand(len(own), 1, generator=g)})


@functools.cache
def modules() -> tuple[Tower, Ranker]:
    torch.manual_seed(5)
    return Tower().eval(), Ranker().eval()


@functools.cache
def compiled(form: str = "plain") -> tuple[recfx.CompiledModel, recfx.CompiledModel]:
    """Both models; the ranking model for candidates alone, for one request, or for several."""
    tower, ranker = modules()
    given, some = users(6), items(range(100, 106))
    forms = {"plain": {}, "one": {"request_inputs": ("user", "mood")}}
    forms["many"] = {**forms["one"], "many_requests": True}
    query = recfx.optimize(tower, target="native", example_inputs=tuple(given.values()), measure=False)
    example = (*given.values(), *some.inputs.values())
    return query, recfx.optimize(ranker, target="native", example_inputs=example, measure=False, **forms[form])


def indexed(some: Items, kind: str = "one-stage") -> Index | TwoStageIndex:
    if kind == "one-stage":
        return Index.from_embeddings(some.embedding, bits=8, ids=some.ids)
    return TwoStageIndex.from_embeddings(some.embedding, bits=4, ids=some.ids)


def recommender(some: Items, form: str = "plain", kind: str = "one-stage", **options: Any) -> Recommender:
    """A recommender with models of its own, because changes write to their tables."""
    query, ranking = (recfx.CompiledModel(model.parts) for model in compiled(form))
    return Recommender(query, indexed(some, kind), ranking, some.inputs, **{"k": 5, "candidates": 12, **options})


def reference(
    some: Items, given: dict[str, Tensor], k: int, candidates: int, kind: str = "one-stage", exclude: Any = None
) -> tuple[Tensor, Tensor]:
    """Scores and ids by the user's own models, candidate by candidate."""
    tower, ranker = modules()
    index = indexed(some, kind)
    scores, ids = torch.full((len(given["user"]), k), -torch.inf), torch.full((len(given["user"]), k), -1)
    place = {int(own): row for row, own in enumerate(some.ids)}
    for user in range(len(scores)):
        mine = {name: value[user : user + 1] for name, value in given.items()}
        out = [] if exclude is None else [own for own in exclude[user].tolist() if own in place]
        left_out = [torch.tensor(out, dtype=torch.int64)]
        number = min(candidates, len(some.ids))
        options = {"shortlist": number} if kind == "two-stage" else {}
        found = index.search(tower(**mine).detach(), number, left_out, **options)[1][0]
        rows = [place[own] for own in found.tolist() if own >= 0]
        if not rows:
            continue
        repeated = {name: value.expand(len(rows), *value.shape[1:]) for name, value in mine.items()}
        found_scores = ranker(**repeated, **{name: value[rows] for name, value in some.inputs.items()}).detach()
        order = found_scores.argsort(descending=True, stable=True)[:k]
        scores[user, : len(order)], ids[user, : len(order)] = found_scores[order], some.ids[rows][order]
    return scores, ids


def same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """Both answers hold the same scores, and the same items where scores differ by more than rounding."""
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    apart = (wanted[0].diff(dim=1).abs() > 1e-5).all(1)
    assert torch.equal(found[1][apart], wanted[1][apart])
