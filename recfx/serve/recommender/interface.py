"""`RecommenderInterface`: a recommender as an engine serves it, by named tensors; requests of several users share a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from recfx.serve.engine.model_updates import tables_of
from recfx.serve.engine.served import Updatable
from recfx.serve.engine.tensor_info import TensorInfo
from recfx.serve.recommender.arguments import EXCLUDE
from recfx.serve.recommender.changes import EMBEDDING, change_of
from recfx.serve.recommender.recommender import Recommender


class RecommenderInterface:
    """The tensors of a recommender. A row is a user. The methods are those of `Served`.

    Args:
        recommender: The recommender.

    Attributes:
        inputs: Those of users; a request may also hold "exclude", int64 [users, m].
        outputs: "scores" and "items", [users, k] each.
    """

    joinable: str | None = None
    divisible: str | None = "the candidates of each user are ranked in one call"
    #: A search and two models: a call takes longer than it takes to hand a request to a worker.
    runs_on_own_kernels = False
    most_rows: int | None = None

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.inputs: tuple[TensorInfo, ...] = recommender.inputs
        sizes = (-1, recommender.k)
        self.outputs: tuple[TensorInfo, ...] = (
            TensorInfo("scores", torch.float32, sizes),
            TensorInfo("items", torch.int64, sizes),
        )
        self._names = (*(info.name for info in self.inputs), EXCLUDE)

    @property
    def updates(self) -> Updatable:
        """Changes of items, and of the tables of both models."""
        return _Updates(self.recommender)

    def leaves(self, tensors: Mapping[str, Tensor]) -> list[Any]:
        """The inputs of a request, in order; "exclude" is the last."""
        given = self.recommender.checked(tensors)
        return [given[name] for name in self._names]

    def rows(self, leaves: Sequence[Any]) -> int:
        """The users of a request."""
        return len(leaves[-1])

    def call(self, leaves: Sequence[Any]) -> list[Tensor]:
        """Scores and items of users."""
        return list(self.recommender.run(dict(zip(self._names, leaves, strict=True))))

    def join(self, requests: Sequence[Sequence[Any]]) -> list[Any]:
        """The inputs of all users; shorter lists of items to leave out end with -1."""
        *inputs, excluded = zip(*requests, strict=True)
        most = max(part.shape[1] for part in excluded)
        padded = [pad(part, (0, most - part.shape[1]), value=-1) for part in excluded]
        return [*(torch.cat(parts) for parts in inputs), torch.cat(padded)]

    def divide(self, outputs: Sequence[Tensor], rows: Sequence[int]) -> list[list[Tensor]]:
        """The scores and items of each request."""
        parts = [output.split(list(rows)) for output in outputs]
        return [list(own) for own in zip(*parts, strict=True)]


class _Updates:
    """Changes as tensors of a request; see `Updatable`."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Checks a change."""
        self._recommender.check(change_of(tensors))

    def update(self, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
        """Makes a change visible."""
        change = change_of(tensors)
        return self._recommender.apply(change), change.rows

    def follow(self) -> int:
        """Applies the changes of other processes."""
        return self._recommender.follow_updates()

    def document(self) -> dict[str, Any]:
        """The number of items, the sizes of their values, and the tables of both models."""
        held, tables = self._recommender, []
        for name, model in (("query", held.query.model), ("ranking", held.ranking.model)):
            tables += tables_of(model, f"{name}.")
        shapes = {name: list(shape) for name, shape in held.items.shapes.items()}
        return {
            "table_version": held.version,
            "items": len(held),
            "embedding": shapes.pop(EMBEDDING),
            "inputs": shapes,
            "tables": tables,
        }
