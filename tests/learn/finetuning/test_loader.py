"""Epochs of loaders: their draws follow the given generator alone, and leave torch's global generator as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from recfx.data import tensor_batches
from recfx.learn.finetuning.loader import Loader


def own_generator() -> DataLoader[Any]:
    return DataLoader(
        TensorDataset(torch.arange(20)),
        4,
        shuffle=True,
        generator=torch.Generator().manual_seed(int(torch.randint(99, ()))),
    )


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.randperm(20)


LOADERS = {
    "shuffled": lambda: DataLoader(TensorDataset(torch.arange(20)), 4, shuffle=True),
    "with a generator": own_generator,
    "Batches": lambda: tensor_batches(torch.arange(20), batch_size=4),
    "a stream": lambda: DataLoader(Stream(), 4),
}


def epoch(loader: Any, seed: int, disturb: bool) -> list[int]:
    found = []
    for batch in Loader(loader)(torch.Generator().manual_seed(seed)):
        if disturb:
            torch.rand(3)
        found += (batch[0] if isinstance(batch, tuple | list) else batch).tolist()
    return found


@pytest.mark.parametrize("kind", LOADERS)
def test_an_epoch_follows_from_the_generator(kind: str) -> None:
    orders = [epoch(LOADERS[kind](), seed, disturb) for seed, disturb in ((1, False), (1, True), (2, False))]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(20))


@pytest.mark.parametrize("kind", LOADERS)
def test_the_global_generator_goes_on_for_the_model(kind: str) -> None:
    loader = LOADERS[kind]()
    torch.manual_seed(7)
    epoch(loader, 1, disturb=False)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(7)))


def test_lengths_are_known_where_the_loader_knows_them() -> None:
    generator = torch.Generator()
    assert len(Loader(LOADERS["shuffled"]())(generator)) == 5  # type: ignore[arg-type]
    assert not hasattr(Loader(LOADERS["a stream"]())(generator), "__len__")
