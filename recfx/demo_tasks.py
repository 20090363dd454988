"""The data on which the demo trains each model of the zoo: click-through rows, or users, items and histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recfx.data import ClickData, CtrData, clicks, load_ctr, load_feedback
from recfx.errors import InputError
from recfx.zoo import MODELS

#: Models over dense and sparse features of one row; all others take users, items and histories.
CTR_MODELS = frozenset({"dlrm", "wide-deep", "deepfm", "xdeepfm", "dcn-v2", "autoint", "mmoe"})
HISTORY = 50

Forward = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with the data on which it is trained and measured.

    Attributes:
        model: The untrained model.
        data: Splits whose `inputs(rows)` the model, or `forward`, takes.
        forward: `(model, *inputs) -> logits [n]`, for models whose inputs or outputs differ from the data's; else None.
        arguments: The data's inputs -> the model's own.
        bayes_auc: The best AUC any model can have, where it is known.
    """

    model: nn.Module
    data: CtrData | ClickData
    forward: Forward | None
    arguments: Callable[..., tuple[Tensor, ...]]
    bayes_auc: float | None = None

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        """The model's own inputs for `rows` test rows, repeated if the data has fewer."""
        picked = torch.arange(rows) % len(self.data.test)
        return self.arguments(*self.data.test.inputs(picked))


def task_for(name: str, path: Path | None, *, rows: int | None, seed: int, label: str | None = None) -> Task:
    """The task of a model of the zoo.

    Args:
        name: The model.
        path: File or folder of real data; None for generated data.
        rows: At most this many rows of click-through data.
        seed: Seed of the data.
        label: The column of labels of a CSV or Parquet file.

    Raises:
        InputError: The model is unknown, or does not take tables.
        DataError: The data cannot be read.
    """
    if name not in MODELS:
        raise InputError(f"the zoo has no model {name!r}", hint=f"known: {', '.join(sorted(MODELS))}")
    if name in CTR_MODELS:
        return _ctr_task(name, path, rows, seed, label)
    if label is not None:
        raise InputError(
            f"{name} takes users, items and histories, which a table of columns does not hold",
            where="--label",
            hint=f"models of tables: {', '.join(sorted(CTR_MODELS))}",
        )
    return _click_task(name, path, seed)


def _ctr_task(name: str, path: Path | None, rows: int | None, seed: int, label: str | None) -> Task:
    data = load_ctr(path, max_rows=rows, seed=seed, label=label)
    cls: Any = MODELS[name]
    model = cls.for_criteo(data.cardinalities, dense=data.train.dense.shape[1])
    forward = _first_task if name == "mmoe" else None
    return Task(model, data, forward, _as_they_are, data.bayes_auc)


def _first_task(model: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return model(*inputs)[:, 0]


def _as_they_are(*inputs: Tensor) -> tuple[Tensor, ...]:
    return inputs


def _click_task(name: str, path: Path | None, seed: int) -> Task:
    data = clicks(load_feedback(path, seed=seed), history=HISTORY, pad="right", seed=seed)
    cls: Any = MODELS[name]
    if name in ("lightgcn", "ngcf"):
        liked = data.train.label > 0
        graph = (data.train.user[liked], data.train.item[liked])
        model = cls.for_interactions(data.n_users, data.n_items + 1, *graph)
    elif name in ("neumf", "mf"):
        model = cls.for_interactions(data.n_users, data.n_items + 1)
    else:
        model = cls.for_interactions(data.n_users, data.n_items, length=HISTORY)
    arguments = _ARGUMENTS.get(name, _as_they_are)
    forward = None if arguments is _as_they_are else partial(_call_with, arguments)
    return Task(model, data, forward, arguments)


def _call_with(arguments: Callable[..., tuple[Tensor, ...]], model: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    return model(*arguments(*inputs)).reshape(-1)


def _pair(user: Tensor, item: Tensor, history: Tensor) -> tuple[Tensor, ...]:
    return user, item


def _history_and_candidate(user: Tensor, item: Tensor, history: Tensor) -> tuple[Tensor, ...]:
    return history, item[:, None]


#: Models that do not take (user, item, history): name -> the function from these to their inputs.
_ARGUMENTS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lightgcn": _pair,
    "mf": _pair,
    "neumf": _pair,
    "ngcf": _pair,
    "sasrec": _history_and_candidate,
}
