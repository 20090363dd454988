"""An encoder with quantised embeddings: what is trained, evaluated and exported."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.codes import QuantizedTable
from recfx.learn.encoders import as_encoder, base_rows_of, rows_of
from recfx.learn.quantizer import Quantizer


class Batch(NamedTuple):
    """Samples to rank.

    Attributes:
        users: int64 [B].
        positives: int64 [B], an item that the user took.
        negatives: int64 [B, n], items that the user did not take.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    @staticmethod
    def of(users: Tensor, positives: Tensor, negatives: Tensor) -> Batch:
        """A batch of what a sampler yields, whose negatives may be [B] or [B, n].

        Raises:
            InputError: Shapes that do not belong together, or ids of another type than int64.
        """
        negatives = negatives.unsqueeze(1) if negatives.ndim == 1 else negatives
        fits = users.ndim == 1 and positives.shape == users.shape and negatives.ndim == 2
        if not fits or len(negatives) != len(users) or not negatives.shape[1]:
            raise InputError(
                f"expected [B], [B] and [B] or [B, n], got {list(users.shape)}, {list(positives.shape)} and "
                f"{list(negatives.shape)}",
                where="sampler",
            )
        if {users.dtype, positives.dtype, negatives.dtype} != {torch.int64}:
            raise InputError(
                f"ids must be int64, got {users.dtype}, {positives.dtype}, {negatives.dtype}", where="sampler"
            )
        return Batch(users, positives, negatives)

    @property
    def items(self) -> Tensor:
        """int64 [(1 + n) B]: the positives, then each sample's negatives."""
        return torch.cat([self.positives, self.negatives.flatten()])

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(ids.to(device, non_blocking=True) for ids in self))


class Rows(NamedTuple):
    """Embeddings of a batch.

    Attributes:
        users: [B, d].
        items: [(1 + n) B, d], in the order of `Batch.items`.
    """

    users: Tensor
    items: Tensor

    def samples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users [B, d], positives [B, d] and negatives [B, n, d], as ranking losses take them."""
        batch, dim = self.users.shape
        return self.users, self.items[:batch], self.items[batch:].view(batch, -1, dim)


class QuantizedModel(nn.Module):
    """Users and items as an encoder embeds them, quantised at the end.

    Args:
        encoder: Has `embeddings() -> (users [U, d], items [I, d])`, or `propagate`; see `recfx.learn.encoders`.
        users: Quantises users; None leaves them in full precision.
        items: Quantises items; may be the same object, which then sees both.

    Raises:
        InputError: An encoder without embeddings.
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
        """Embeddings of users, int64 [m], and items, int64 [n], as the encoder gives them, before rounding."""
        return Rows(*rows_of(self.encoder, users, items))

    def base_rows(self, batch: Batch, rows: Rows) -> Rows:
        """What the L2 penalty applies to: the encoder's parameters where it tells them, else the rows themselves."""
        base = base_rows_of(self.encoder, batch.users, batch.items)
        return rows if base is None else Rows(*base)

    def quantize(self, rows: Rows) -> Rows:
        """Embeddings of a batch, rounded; in training the bounds see each side as a whole."""
        if self.user_quantizer is not None and self.user_quantizer is self.item_quantizer:
            both = self.user_quantizer(torch.cat(rows))
            return Rows(both[: len(rows.users)], both[len(rows.users) :])
        users = rows.users if self.user_quantizer is None else self.user_quantizer(rows.users)
        items = rows.items if self.item_quantizer is None else self.item_quantizer(rows.items)
        return Rows(users, items)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The rounded embeddings of a batch: [B, d], [B, d], [B, n, d]."""
        return self.quantize(self.rows(batch.users, batch.items)).samples()

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """All users [U, d] and items [I, d] as they will be served, rounded, without gradient.

        Raises:
            InputError: A quantiser has no bounds yet.
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
            InputError: A side is in full precision, or its quantiser has no bounds yet.
        """
        if self.user_quantizer is None or self.item_quantizer is None:
            raise InputError("a model in full precision has no codes", where="QuantizedModel.tables")
        users, items = self._plain()
        return self.user_quantizer.table(users), self.item_quantizer.table(items)

    def _plain(self) -> tuple[Tensor, Tensor]:
        encoder: Any = self.encoder
        training = encoder.training
        encoder.eval()
        try:
            users, items = encoder.embeddings()
        finally:
            encoder.train(training)
        return users, items
