"""Labelled rows: evaluation data in any of its forms, divided into a part for choices and a part for the certificate."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from recfx.data.metrics import to_float64
from recfx.errors import DataError, InputError

_FORMS = (
    "give batches whose last element is the labels, such as (dense, sparse, label) or ({'user': ids}, label); dicts with label='NAME'; or "
    "an object with `label` and `inputs(rows)`, such as the splits of recfx.data"
)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some labelled rows.

    Attributes:
        labels: float64 [N].
        batches: Makes an iterator over the inputs of the rows, in the order of `labels`; each is as `example_inputs` takes them.
    """

    labels: NDArray[np.float64]
    batches: Callable[[], Iterator[Any]]

    def digest(self) -> str:
        """A digest of the inputs and the labels."""
        found = hashlib.blake2b(self.labels.tobytes(), digest_size=8)
        for inputs in self.batches():
            for leaf in pytree.tree_leaves(inputs):
                found.update(
                    leaf.detach().cpu().contiguous().numpy().tobytes() if _plain(leaf) else repr(leaf).encode()
                )
        return found.hexdigest()


def divided(data: Any, label: str | None, share: float, seed: int, batch_size: int) -> tuple[Part, Part]:
    """Divides labelled rows at random into a part for choices and a part for the certificate.

    Rows are divided; a batch whose tensors do not all have one row for each label, such as jagged ids with offsets, goes whole to a part.

    Args:
        data: An object with `label` and `inputs(rows)`, or an iterable of batches.
        label: The key of the labels in batches that are dicts; None if the labels are the last element of a batch.
        share: The share of the rows for choices.
        seed: Seed of the division.
        batch_size: Rows in a batch, for data that is not in batches.

    Raises:
        InputError: The data has another form.
        DataError: There are too few rows.
    """
    order = np.random.RandomState(seed)
    if hasattr(data, "label") and callable(getattr(data, "inputs", None)):
        return _divided_split(data, share, order, batch_size)
    if isinstance(data, Tensor | str | Mapping) or not isinstance(data, Iterable):
        raise InputError(f"evaluation data cannot be a {type(data).__name__}", hint=_FORMS)
    return _divided_batches([_labelled(batch, label) for batch in data], share, order)


def _divided_split(data: Any, share: float, order: np.random.RandomState, batch_size: int) -> tuple[Part, Part]:
    labels = to_float64(data.label)
    places = order.permutation(len(labels))
    cut = _cut(len(labels), share)

    def part(rows: NDArray[np.int64]) -> Part:
        rows = np.sort(rows)
        picked = torch.from_numpy(rows)
        return Part(labels[rows], lambda: (tuple(data.inputs(some)) for some in picked.split(batch_size)))

    return part(places[:cut]), part(places[cut:])


def _divided_batches(
    batches: list[tuple[Any, NDArray[np.float64]]], share: float, order: np.random.RandomState
) -> tuple[Part, Part]:
    if all(_has_rows(inputs, len(labels)) for inputs, labels in batches):
        count = sum(len(labels) for _, labels in batches)
        chosen = np.zeros(count, dtype=bool)
        chosen[order.permutation(count)[: _cut(count, share)]] = True
        masks = np.split(chosen, np.cumsum([len(labels) for _, labels in batches])[:-1])
    else:
        places = order.permutation(len(batches))[: _cut(len(batches), share, "batches")]
        masks = [np.full(len(labels), number in places) for number, (_, labels) in enumerate(batches)]

    def part(wanted: bool) -> Part:
        picked = [(inputs, labels, mask == wanted) for (inputs, labels), mask in zip(batches, masks, strict=True)]
        picked = [each for each in picked if each[2].any()]
        return Part(
            np.concatenate([labels[mask] for _, labels, mask in picked]),
            lambda: (_taken(inputs, mask) for inputs, _, mask in picked),
        )

    return part(True), part(False)


def _cut(count: int, share: float, unit: str = "rows") -> int:
    if count < 2:
        raise DataError(
            f"the evaluation data has {count} {unit}, which cannot be divided in two",
            hint="give thousands of labelled rows: choices are made on one part and the certificate on the other",
        )
    return min(max(round(count * share), 1), count - 1)


def _labelled(batch: Any, label: str | None) -> tuple[Any, NDArray[np.float64]]:
    """The inputs and the labels of a batch."""
    if label is not None:
        if not isinstance(batch, Mapping) or label not in batch:
            raise InputError(f"a batch of the evaluation data has no key {label!r}", hint=_FORMS)
        return {name: value for name, value in batch.items() if name != label}, to_float64(batch[label])
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise InputError(f"a batch of the evaluation data is a {type(batch).__name__} without labels", hint=_FORMS)
    *inputs, labels = batch
    alone = len(inputs) == 1 and isinstance(inputs[0], tuple | list | Mapping)
    return inputs[0] if alone else tuple(inputs), to_float64(labels)


def _plain(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout is torch.strided


def _has_rows(inputs: Any, rows: int) -> bool:
    return all(_plain(leaf) and leaf.ndim > 0 and len(leaf) == rows for leaf in pytree.tree_leaves(inputs))


def _taken(inputs: Any, mask: NDArray[np.bool_]) -> Any:
    """The rows of the inputs of a batch."""
    if mask.all():
        return inputs
    rows = torch.from_numpy(np.flatnonzero(mask))
    return pytree.tree_map(lambda leaf: leaf.index_select(0, rows.to(leaf.device)), inputs)
