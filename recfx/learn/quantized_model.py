"""An encoder with quantised embeddings, for training, evaluation and export."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.codes import QuantizedTable
from recfx.learn.encoders import as_encoder, base_rows_of, rows_of, tables_of
from recfx.learn.quantizer import Quantizer

_MARKS_PER_ID = 16  # up to this many marks for each id, clearing and counting marks is faster than sorting


class Batch(NamedTuple):
    """Samples to rank.

    Attributes:
        users: int64 [B].
        positives: int64 [B], an item that the user interacted with.
        negatives: int64 [B, n], items that the user did not interact with.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    @staticmethod
    def of(users: Tensor, positives: Tensor, negatives: Tensor) -> Batch:
        """Makes a batch from a sampler's tensors, whose negatives may be [B] or [B, n].

        Raises:
            InputError: The shapes do not fit each other, or ids are not int64.
        """
        negatives = negatives.unsqueeze(1) if negatives.ndim == 1 else negatives
        fits = users.ndim == 1 and positives.shape == users.shape and negatives.ndim == 2
        if not fits or len(negatives) != len(users) or not negatives.shape[1]:
            raise InputError(
                f"expected [B], [B] and [B] or [B, n], got {list(users.shape)}, {list(positives.shape)} and "
                f"{list(negatives.shape)}",
                where="sampler",
                hint="let the sampler return one positive, and one or n negatives, for each user",
            )
        if {users.dtype, positives.dtype, negatives.dtype} != {torch.int64}:
            raise InputError(
                f"ids must be int64, got {users.dtype}, {positives.dtype}, {negatives.dtype}",
                where="sampler",
                hint="convert them with .long(), without further dimensions",
            )
        return Batch(users, positives, negatives)

    @property
    def items(self) -> Tensor:
        """int64 [(1 + n) B]: the positives, then each sample's negatives."""
        return torch.cat([self.positives, self.negatives.flatten()])

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(ids.to(device, non_blocking=True) for ids in self))

    def distinct(self, further_items: Tensor | None = None) -> Distinct:
        """Returns each user and item of the batch once, so that each embedding is processed once.

        Args:
            further_items: int64 of any shape, further items to embed.
        """
        users, user_places = _distinct(self.users)
        ids = self.items if further_items is None else torch.cat([self.items, further_items.flatten()])
        items, places = _distinct(ids)
        sizes = [self.positives.numel(), self.negatives.numel()]
        positives, negatives, further = places.tensor_split([sizes[0], sum(sizes)])
        local = Batch(user_places, positives, negatives.view_as(self.negatives))
        return Distinct(users, items, local, None if further_items is None else further.view_as(further_items))


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the different ids in rising order, and the position of each id among them. It sorts only if a mark for
    every possible id would take too much memory."""
    if ids.device.type != "cpu" or not len(ids) or int(ids.min()) < 0 or int(ids.max()) >= _MARKS_PER_ID * len(ids):
        return torch.unique(ids, return_inverse=True)  # type: ignore[no-any-return]
    marks = torch.zeros(int(ids.max()) + 1, dtype=torch.bool)
    marks[ids] = True
    return marks.nonzero().flatten(), (marks.cumsum(0) - 1)[ids]


class Distinct(NamedTuple):
    """The users and items of a batch, each once.

    Attributes:
        users: int64 [m], rising.
        items: int64 [n], rising.
        places: The batch, with positions among `users` and `items` instead of ids.
        further: Positions of the further items, in their shape.
    """

    users: Tensor
    items: Tensor
    places: Batch
    further: Tensor | None


class Rows(NamedTuple):
    """Embeddings of different users and items.

    Attributes:
        users: [m, d].
        items: [n, d].
    """

    users: Tensor
    items: Tensor

    def samples(self, places: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Users [B, d], positives [B, d] and negatives [B, n, d], the arguments of ranking losses.

        Args:
            places: The positions of the batch among the rows.
        """
        return (
            F.embedding(places.users, self.users),
            F.embedding(places.positives, self.items),
            F.embedding(places.negatives, self.items),
        )


class QuantizedModel(nn.Module):
    """An encoder of users and items whose embeddings are quantised.

    Args:
        encoder: Has `embeddings() -> (users [U, d], items [I, d])`, or `propagate`; see `recfx.learn.encoders`.
        users: The quantiser of users; None leaves them in full precision.
        items: The quantiser of items; may be the same object as that of users, which then observes both.

    Raises:
        InputError: The encoder has neither method.
    """

    def __init__(self, encoder: nn.Module, users: Quantizer | None = None, items: Quantizer | None = None) -> None:
        super().__init__()
        self.encoder = as_encoder(encoder)
        self.user_quantizer = users
        self.item_quantizer = items
        self._sizes: tuple[int, int] | None = None

    def quantizers(self) -> tuple[Quantizer, ...]:
        """The different quantisers: none, one or two."""
        found = [q for q in (self.user_quantizer, self.item_quantizer) if q is not None]
        return tuple({id(q): q for q in found}.values())

    @torch.no_grad()
    def sizes(self) -> tuple[int, int]:
        """Numbers of users and items; the first call encodes all of them."""
        if self._sizes is None:
            users, items = self._plain()
            self._sizes = len(users), len(items)
        return self._sizes

    def rows(self, users: Tensor, items: Tensor) -> Rows:
        """The encoder's embeddings of users, int64 [m], and items, int64 [n], before rounding."""
        return Rows(*rows_of(self.encoder, users, items))

    def base_rows(self, users: Tensor, items: Tensor) -> Rows | None:
        """The parameters of some users and items, or None if the encoder has no `base_rows`."""
        base = base_rows_of(self.encoder, users, items)
        return None if base is None else Rows(*base)

    def quantize(self, rows: Rows) -> Rows:
        """Rounds embeddings; in training the bounds observe each side as a whole."""
        if self.user_quantizer is not None and self.user_quantizer is self.item_quantizer:
            both = self.user_quantizer(torch.cat(rows))
            return Rows(both[: len(rows.users)], both[len(rows.users) :])
        users = rows.users if self.user_quantizer is None else self.user_quantizer(rows.users)
        items = rows.items if self.item_quantizer is None else self.item_quantizer(rows.items)
        return Rows(users, items)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The rounded embeddings of a batch: [B, d], [B, d], [B, n, d]."""
        distinct = batch.distinct()
        return self.quantize(self.rows(distinct.users, distinct.items)).samples(distinct.places)

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """All users [U, d] and items [I, d] as in serving: rounded, without gradient.

        Raises:
            InputError: The bounds of a quantiser are not set yet.
        """
        users, items = self._plain()
        tables = self.user_quantizer, self.item_quantizer
        rounded = [
            table if quantizer is None else quantizer.table(table).dequantize()
            for table, quantizer in zip((users, items), tables, strict=True)
        ]
        return rounded[0], rounded[1]

    @torch.no_grad()
    def tables(self) -> tuple[QuantizedTable, QuantizedTable]:
        """All users and items as codes.

        Raises:
            InputError: A side is in full precision, or the bounds of its quantiser are not set yet.
        """
        if self.user_quantizer is None or self.item_quantizer is None:
            raise InputError(
                "a model in full precision has no codes",
                where="QuantizedModel.tables",
                hint="give QuantizedModel quantisers for users and items",
            )
        users, items = self._plain()
        return self.user_quantizer.table(users), self.item_quantizer.table(items)

    def _plain(self) -> tuple[Tensor, Tensor]:
        training = self.encoder.training
        self.encoder.eval()
        try:
            return tables_of(self.encoder)
        finally:
            self.encoder.train(training)
