"""TorchRec's containers in every form that their constructors take, for the tests of containers as inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

jagged_tensor = pytest.importorskip("torchrec.sparse.jagged_tensor")
JaggedTensor: Any = jagged_tensor.JaggedTensor
KeyedJaggedTensor: Any = jagged_tensor.KeyedJaggedTensor
KeyedTensor: Any = jagged_tensor.KeyedTensor

KEYS = ["a", "b", "c"]
BATCH = 4
#: Lengths [keys * batch], with empty bags at the start, in the middle and at the end of a key.
LENGTHS = torch.tensor([0, 2, 1, 3, 1, 0, 2, 1, 2, 2, 1, 0])
VALUES = torch.arange(100, 100 + int(LENGTHS.sum()))
WEIGHTS = torch.arange(float(len(VALUES))) + 0.5
OFFSETS = torch.cat([LENGTHS.new_zeros(1), LENGTHS.cumsum(0)])
#: Rows of the batch -> bags of a key, for 5 rows over 4 bags; one row of indices for each key.
INVERSE = torch.tensor([[0, 3, 3, 1, 2], [2, 2, 0, 1, 3], [1, 0, 3, 3, 2]])
#: A number of bags for each key (on two ranks), and indices of 5 rows into them.
STRIDES = [[3, 1], [2, 0], [4, 2]]
STRIDES_INVERSE = torch.tensor([[0, 3, 3, 1, 2], [1, 0, 0, 1, 1], [5, 0, 4, 3, 2]])


def keyed_jagged(**parts: Any) -> Any:
    return KeyedJaggedTensor(**{"keys": list(KEYS), "values": VALUES.clone(), **parts})


#: Form -> a new KeyedJaggedTensor of that form.
FORMS: dict[str, Callable[[], Any]] = {
    "lengths": lambda: keyed_jagged(lengths=LENGTHS.clone()),
    "offsets": lambda: keyed_jagged(offsets=OFFSETS.clone()),
    "lengths and offsets": lambda: keyed_jagged(lengths=LENGTHS.clone(), offsets=OFFSETS.clone()),
    "of two widths": lambda: keyed_jagged(lengths=LENGTHS.int(), offsets=OFFSETS.clone()),
    "weights": lambda: keyed_jagged(lengths=LENGTHS.clone(), weights=WEIGHTS.clone()),
    "stride": lambda: keyed_jagged(lengths=LENGTHS.clone(), stride=BATCH, stride_per_key=[BATCH] * 3),
    "inverse": lambda: keyed_jagged(lengths=LENGTHS.clone(), inverse_indices=(list(KEYS), INVERSE.clone())),
    "inverse, int32": lambda: keyed_jagged(
        lengths=LENGTHS.int(), weights=WEIGHTS.clone(), inverse_indices=(list(KEYS), INVERSE.int())
    ),
    "strides": lambda: keyed_jagged(
        lengths=LENGTHS.clone(),
        weights=WEIGHTS.clone(),
        stride_per_key_per_rank=STRIDES,
        inverse_indices=(list(KEYS), STRIDES_INVERSE.clone()),
    ),
}


def bags(jagged: Any) -> dict[str, list[list[float]]]:
    """Key -> for each row of the batch, its values, or pairs of values and weights."""
    found = {}
    for number, (key, part) in enumerate(jagged.to_dict().items()):
        held = part.values() if part.weights_or_none() is None else torch.stack([part.values(), part.weights()], 1)
        rows = [rows.tolist() for rows in torch.split(held, part.lengths().tolist())]
        inverse = jagged.inverse_indices_or_none()
        found[key] = rows if inverse is None else [rows[i] for i in inverse[1][number].tolist()]
    return found
