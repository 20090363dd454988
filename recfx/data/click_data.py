"""Click data over users and items, with histories, for sequence, two-tower and factorisation models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recfx.data.feedback import Feedback
from recfx.errors import DataError

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Histories:
    """The items that each user liked in training, oldest first.

    Attributes:
        indptr: int64 [n_users + 1].
        items: int64 [n], ids from 1, so that 0 can pad.
        length: Number of places in a padded history.
        pad: Side of the padding: "left" puts the latest item in the last place, "right" the oldest item in the first.
    """

    indptr: Tensor
    items: Tensor
    length: int
    pad: Side

    def before(self, user: Tensor, count: Tensor) -> Tensor:
        """The history of each user after the first `count` items: the last `length` of them, padded with 0.

        Args:
            user: int64 [n].
            count: int64 [n], at most the number of the user's items.

        Returns:
            Item ids, int64 [n, length].
        """
        taken = count.clamp(max=self.length)
        column = torch.arange(self.length)
        offset = column - (self.length - taken)[:, None] if self.pad == "left" else column.expand(len(user), -1)
        used = (offset >= 0) & (offset < taken[:, None])
        place = (self.indptr[user] + count - taken)[:, None] + offset
        if len(self.items) == 0:
            return torch.zeros_like(place)
        return torch.where(used, self.items[place.clamp(0, len(self.items) - 1)], 0)

    def full(self, user: Tensor) -> Tensor:
        """The latest items of each user (int64 [n]), int64 [n, length]: the history for serving."""
        return self.before(user, self.indptr[user + 1] - self.indptr[user])


@dataclass(frozen=True)
class ClickSplit:
    """One split of click data. The history of a row holds only earlier items, never the row's own item.

    Attributes:
        user: int64 [N] in [0, n_users).
        item: int64 [N] in [1, n_items]; 0 is the padding of histories.
        label: float32 [N].
        seen: int64 [N], the number of items in the user's history before the row.
        histories: The histories, shared by the splits.
    """

    user: Tensor
    item: Tensor
    label: Tensor
    seen: Tensor
    histories: Histories

    def __len__(self) -> int:
        return len(self.label)

    def history(self, rows: Tensor) -> Tensor:
        """The padded histories, int64 [n, length], of the given rows (int64 [n])."""
        return self.histories.before(self.user[rows], self.seen[rows])

    def inputs(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The model inputs `(user [n], item [n], history [n, length])` of the given rows (int64 [n])."""
        return self.user[rows], self.item[rows], self.history(rows)


@dataclass(frozen=True)
class ClickData:
    """Click data over users and items in three splits.

    Attributes:
        train: The split for training.
        valid: The split for model selection.
        test: The split for the reported metrics.
        n_users: Number of users.
        n_items: Number of items; ids are 1 to n_items, so tables need n_items + 1 rows.
        name: Name of the data set, for reports.
    """

    train: ClickSplit
    valid: ClickSplit
    test: ClickSplit
    n_users: int
    n_items: int
    name: str = "clicks"

    @property
    def histories(self) -> Histories:
        """The items that each user liked in training, which all splits share."""
        return self.train.histories


def clicks(
    feedback: Feedback,
    *,
    history: int = 50,
    pad: Side = "right",
    valid_share: float = 0.1,
    seed: int = 0,
) -> ClickData:
    """Turns feedback into click data with histories.

    Judgements that are not held out for the test are split at random into training and validation. The history of a user
    holds the items that the user liked in train, in order of time, or in a random order if times are unknown. In all three
    splits, a row sees the part of the history before its own place in this order, so that its label does not leak into
    its history.

    Args:
        feedback: Judged pairs.
        history: Number of places in a padded history.
        pad: Side of the padding.
        valid_share: Share of the validation split, between 0 and 1.
        seed: Seed of the validation split, and of the order of data without times.

    Raises:
        DataError: A split would be empty, or an argument is out of range.
    """
    if history < 1:
        raise DataError(f"history must be at least 1, got {history}", where="clicks", hint="pass 1 or more")
    if pad not in ("left", "right"):
        raise DataError(f'pad must be "left" or "right", got {pad!r}', where="clicks", hint="pass one of these")
    if not 0 < valid_share < 1:
        raise DataError(
            f"valid_share must be between 0 and 1, got {valid_share}", where="clicks", hint="pass a number such as 0.9"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(feedback), generator=generator)  # a random order among equal times
    if feedback.time is not None:
        order = order[feedback.time[order].argsort(stable=True)]
    order = order[feedback.user[order].argsort(stable=True)]  # by user, then by time
    user, item, label = feedback.user[order], feedback.item[order] + 1, feedback.positive[order]
    test = feedback.test[order]
    valid = ~test & (torch.rand(len(feedback), generator=generator) < valid_share)
    train = ~test & ~valid
    kept = train & label
    counts = torch.bincount(user[kept], minlength=feedback.n_users)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    seen = kept.long().cumsum(0) - kept.long() - indptr[user]
    histories = Histories(indptr, item[kept], history, pad)
    splits = []
    for name, mask in (("train", train), ("valid", valid), ("test", test)):
        if not mask.any():
            raise DataError(f"the split {name} would be empty", where=feedback.name, hint="give more feedback")
        splits.append(ClickSplit(user[mask], item[mask], label[mask].float(), seen[mask], histories))
    return ClickData(splits[0], splits[1], splits[2], feedback.n_users, feedback.n_items, feedback.name)
