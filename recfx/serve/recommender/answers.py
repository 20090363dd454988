"""`Answers`: the half of a recommender that answers: it finds candidates for users in an index, and ranks them by a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from recfx.compiled import CompiledModel, PinnedModel
from recfx.errors import InputError
from recfx.retrieval.two_stage import TwoStageIndex
from recfx.serve.recommender.arguments import EXCLUDE, WHERE, item_values, require_options, user_inputs
from recfx.serve.recommender.catalogue import AnyIndex, Catalogue, dim_of
from recfx.serve.recommender.item_inputs import ItemInputs
from recfx.serve.recommender.models import QueryModel, RankingModel, merged
from recfx.serve.recommender.sides import Sides


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The items and the rows of all tables at one moment.

    Attributes:
        items: The items.
        query: The model of queries.
        ranking: The ranking model.
        version: The number of changes before.
    """

    items: Catalogue
    query: PinnedModel
    ranking: PinnedModel
    version: int


class Answers:
    """Candidates from an index, ranked by a model; see `Recommender`.

    Args:
        query: See `Recommender`.
        index: Likewise.
        ranking: Likewise.
        inputs: Likewise.
        k: Likewise.
        candidates: Likewise.
        score: Likewise.
        owned: Whether the index and the inputs may be written to.

    Attributes:
        query: The model of queries.
        ranking: The ranking model.
        inputs: The inputs of users.
        k: See above.
        candidates: See above.
        score: See above.
    """

    def __init__(
        self,
        query: CompiledModel,
        index: AnyIndex,
        ranking: CompiledModel,
        inputs: Mapping[str, Any],
        *,
        k: int = 20,
        candidates: int = 200,
        score: str | None = None,
        owned: bool = False,
    ) -> None:
        held = {name: item_values(value, name, index.next_id) for name, value in inputs.items()}
        require_options(index, held, k, candidates)
        self.query = QueryModel(query, dim_of(index))
        self.ranking = RankingModel(ranking, held, score)
        self.inputs = merged((self.query.inputs, self.ranking.inputs))
        if any(info.name == EXCLUDE for info in self.inputs):
            raise InputError(f"an input of users has the name {EXCLUDE!r}", where=WHERE, hint="rename it in the model")
        self.k, self.candidates, self.score = k, candidates, score
        self._version = 0
        self._sides = Sides(Catalogue(index, ItemInputs(held, index.next_id)), owned=owned)
        self._example = self.example(1)
        self.ranking.check(held, self._example)

    def __len__(self) -> int:
        """Items."""
        return len(self._sides.active)

    @property
    def version(self) -> int:
        """The number of changes so far."""
        return self._version

    @property
    def items(self) -> Catalogue:
        """The present items; a later change may write to them."""
        return self._sides.active

    def recommend(self, users: Mapping[str, Any], exclude: Any = None) -> tuple[Tensor, Tensor]:
        """The best items for users.

        Args:
            users: Input of a user -> tensor or NumPy array [users, ...].
            exclude: Items to leave out, int64 [users, m]; -1 for none.

        Returns:
            Scores, float32 [users, k], best first, and ids, int64 [users, k]. Where fewer items remain, the rest is -inf and -1. Of equal
            scores the item that the index ranks higher comes first.

        Raises:
            InputError: Names, dtypes, shapes or ids do not fit.
        """
        given = {**users, **({} if exclude is None else {EXCLUDE: exclude})}
        scores, ids = self.run(self.checked({name: torch.as_tensor(value) for name, value in given.items()}))
        return scores, ids

    def checked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of users in the dtypes of the models, and "exclude", int64 [users, m].

        Raises:
            InputError: See `recommend`.
        """
        return user_inputs(self.inputs, tensors)

    def run(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`recommend` for inputs from `checked`."""
        with torch.inference_mode(), self.snapshot() as now:
            return self._answer(now, given)

    def _answer(self, now: Snapshot, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        count, index = len(given[EXCLUDE]), now.items.index
        scores, ids = torch.full((count, self.k), -torch.inf), torch.full((count, self.k), -1)
        if not count or not len(index):
            return scores, ids
        vectors = self.query.vectors(now.query, given, count)
        excluded = given[EXCLUDE]
        left_out = None if not excluded.shape[1] else [row[index.positions(row) >= 0] for row in excluded]
        found = self._candidates(index, vectors, left_out)
        positions = index.positions(found.reshape(-1)).view(found.shape)
        scored = self.ranking.scores(now.ranking, given, now.items.inputs, positions)
        order = torch.where(scored.isnan(), -torch.inf, scored).argsort(dim=1, descending=True, stable=True)
        order = order[:, : self.k]
        width = order.shape[1]
        scores[:, :width], ids[:, :width] = scored.gather(1, order), found.gather(1, order)
        return scores, ids

    def _candidates(self, index: AnyIndex, vectors: Tensor, left_out: list[Tensor] | None) -> Tensor:
        """The ids of the items to score, int64 [users, n]."""
        number = min(self.candidates, len(index))
        found: Tensor
        if isinstance(index, TwoStageIndex):
            found = index.search(vectors, number, left_out, shortlist=max(index.shortlist or 0, number))[1]
        else:
            found = index.search(vectors, number, left_out)[1]
        return found

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A context in which the items and the rows of all tables stay as they are."""
        with self._sides.gate:
            side = self._sides.enter()
            now = Snapshot(side.catalogue, self.query.model.pinned(), self.ranking.model.pinned(), self._version)
        try:
            yield now
        finally:
            now.query.release()
            now.ranking.release()
            with self._sides.gate:
                self._sides.leave(side)

    def example(self, count: int) -> dict[str, Tensor]:
        """Inputs of users, drawn from the examples with which the models were compiled.

        Args:
            count: Users.
        """
        held: dict[str, Tensor] = {}
        for interface in (self.ranking.interface, self.query.interface):
            leaves = interface.model.parts.exemplified.example
            held |= dict(zip((info.name for info in interface.inputs), interface.tensors(leaves), strict=True))
        return {info.name: held[info.name][torch.arange(count) % len(held[info.name])] for info in self.inputs}
