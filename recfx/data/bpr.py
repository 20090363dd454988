"""Training samples for pairwise losses: a user, a positive item, and negative items."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recfx.data.interactions import Interactions
from recfx.errors import DataError

_ODD = 0x9E3779B97F4A7C15 - 2**64  # 2^64 divided by the golden ratio, as a signed number: Fibonacci hashing
_SLOTS_PER_PAIR = 8


class BprSampler:
    """Draws samples as LightGCN's authors do: a uniform user, a uniform positive of this user, and uniform negatives.

    A negative is drawn uniformly from all items. If it is a positive of the user, it is drawn again, once, uniformly from
    the items that are not. The result is therefore uniform over the negatives, in two draws at most. A hash table of bits
    finds most draws that are not positives, so that nine draws in ten need no search.

    The sampler never draws users without positives, nor users whose positives are all items.

    Attributes:
        generator: The source of all randomness. Its state is the whole state of the sampler.
        samples: Number of samples in an epoch, which is the number of training interactions.

    Args:
        data: Training interactions.
        negatives: Number of negatives in each sample.
        seed: Seed of the generator.

    Raises:
        DataError: `negatives` is below 1, or no user has both a positive and a negative.
    """

    def __init__(self, data: Interactions, negatives: int = 1, seed: int = 0) -> None:
        if negatives < 1:
            raise DataError(
                f"a sample needs at least one negative, got {negatives}", where="BprSampler", hint="pass 1 or more"
            )
        self.generator = torch.Generator().manual_seed(seed)
        self.samples = len(data.train_indices)
        self._negatives = negatives
        self._n_items = data.n_items
        self._counts = data.train_indptr.diff()
        self._users = ((self._counts > 0) & (self._counts < data.n_items)).nonzero().flatten()
        if len(self._users) == 0:
            raise DataError(
                "no user has both a positive and a negative",
                where=data.name,
                hint="give data with training interactions",
            )
        self._starts = data.train_indptr[:-1]
        users, items = data.train_pairs()
        self._pairs = (users * data.n_items + items).sort().values
        self._items = self._pairs % data.n_items
        # For each positive, the number of the user's negatives with a smaller id; sorted within the row of a user.
        self._below = self._pairs - torch.arange(len(users)) + self._starts[users]
        self._shift = 63 - (_SLOTS_PER_PAIR * max(len(users), 1)).bit_length()
        self._seen = torch.zeros(1 << (63 - self._shift), dtype=torch.bool)
        self._seen[self._hash(self._pairs)] = True

    def sample(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws samples.

        Args:
            count: Number of samples.

        Returns:
            Users int64 [count], their positives int64 [count], and negatives int64 [count, negatives].

        Raises:
            DataError: `count` is negative.
        """
        if count < 0:
            raise DataError(
                f"cannot draw {count} samples", where="BprSampler.sample", hint="pass a count of at least 0"
            )
        users = self._users[torch.randint(len(self._users), (count,), generator=self.generator)]
        positives = self._items[self._starts[users] + self._below_each(self._counts[users])]
        negatives = torch.randint(self._n_items, (count, self._negatives), generator=self.generator)
        return users, positives, self._replace_positives(users, negatives)

    def epoch(self, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields one epoch of samples in batches, each as `sample` returns it.

        Args:
            batch: Samples in a batch; the last batch may be smaller.

        Raises:
            DataError: `batch` is below 1.
        """
        if batch < 1:
            raise DataError(
                f"a batch needs at least one sample, got {batch}", where="BprSampler.epoch", hint="pass 1 or more"
            )
        for start in range(0, self.samples, batch):
            yield self.sample(min(batch, self.samples - start))

    def _hash(self, pairs: Tensor) -> Tensor:
        """The slot of each pair in the hash table: the upper bits of a product that wraps around."""
        return ((pairs * _ODD) >> self._shift) & (len(self._seen) - 1)

    def _below_each(self, limits: Tensor) -> Tensor:
        """A uniform integer in [0, limit) for each limit of at least 1; the bias of float64 is below 2^-21 even at 2^32."""
        return (torch.rand(limits.shape, dtype=torch.float64, generator=self.generator) * limits).long()

    def _replace_positives(self, users: Tensor, items: Tensor) -> Tensor:
        """Replaces items [n, M] that are positives of their users [n] by uniform draws from the users' negatives."""
        pairs = (users * self._n_items).unsqueeze(1) + items
        suspects = self._seen[self._hash(pairs)].flatten().nonzero().flatten()
        suspected = pairs.flatten()[suspects]
        at = torch.searchsorted(self._pairs, suspected).clamp(max=len(self._pairs) - 1)
        hits = suspects[self._pairs[at] == suspected]
        owners = users[hits // self._negatives]
        ranks = self._below_each(self._n_items - self._counts[owners])
        # The negative with a given rank among the negatives has the id rank + number of smaller positives.
        before = torch.searchsorted(self._below, owners * self._n_items + ranks, right=True) - self._starts[owners]
        return items.flatten().index_put((hits,), ranks + before).view(items.shape)
