"""The interface of samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from recfx.errors import InputError

#: Users [B], positives [B], negatives [B] or [B, n], int64.
Sample = tuple[Tensor, Tensor, Tensor]

#: Draws one epoch of samples: called with a generator, the only source of randomness that it may use.
Sampler = Callable[[torch.Generator], Iterable[Sample]]


class DrawsEpochs(Protocol):
    """A sampler with a generator of its own, such as `recfx.data.BprSampler`."""

    generator: torch.Generator

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        ...

    def epoch(self, batch: int) -> Iterator[Sample]:
        """One epoch in batches, drawn from `generator`."""
        ...


class EpochSampler:
    """Makes a `Sampler` from a sampler with a generator of its own, which the trainer's generator replaces.

    Args:
        source: The sampler.
        batch: Samples of a step.

    Raises:
        InputError: `batch` is below 1.
    """

    def __init__(self, source: DrawsEpochs, batch: int = 2048) -> None:
        if batch < 1:
            raise InputError(
                f"a batch needs at least one sample, got {batch}", where="EpochSampler", hint="pass 1 or more"
            )
        self._source = source
        self._batch = batch

    def __call__(self, generator: torch.Generator) -> _Epoch:
        """One epoch of samples, whose number of batches is known."""
        self._source.generator = generator
        return _Epoch(self._source, self._batch)


class _Epoch:
    def __init__(self, source: DrawsEpochs, batch: int) -> None:
        self._source, self._batch = source, batch

    def __len__(self) -> int:
        return -(-self._source.samples // self._batch)

    def __iter__(self) -> Iterator[Sample]:
        return self._source.epoch(self._batch)
