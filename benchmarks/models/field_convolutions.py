"""Models that convolve over the fields of an example."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS
from recfx.zoo.layers import MLP, FieldEmbeddings
from recfx.zoo.sampling import sample_ids, seeded


class _FieldModel(nn.Module):
    """A model of one matrix of ids.

    Args:
        tables: Rows of each field's table.
        dim: Columns of the tables.
    """

    def __init__(self, tables: Sequence[int], dim: int) -> None:
        super().__init__()
        self.rows = tuple(tables)
        self.embeddings = FieldEmbeddings(tables, dim)

    def example_inputs(self, batch: int, *, zipf: float | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """`(sparse,)`."""
        generator = seeded(seed, batch)
        return (torch.stack([sample_ids(r, (batch,), zipf=zipf, generator=generator) for r in self.rows], 1),)


class CCPM(_FieldModel):
    """Convolutions along the fields, each followed by the largest values of every column; returns logits [B].

    Liu et al. 2015, "A Convolutional Click Prediction Model".

    Args:
        tables: Rows of each field's table.
        dim: Columns of the tables.
        channels: Channels of each convolution.
        widths: Fields that each convolution covers.
        hidden: Hidden widths of the MLP.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dim: int = 16,
        *,
        channels: Sequence[int] = (4, 4, 2),
        widths: Sequence[int] = (6, 5, 3),
        hidden: Sequence[int] = (256,),
    ) -> None:
        super().__init__(tables, dim)
        sizes = zip([1, *channels[:-1]], channels, widths, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, (w, 1), padding=(w - 1, 0)) for i, o, w in sizes)
        layers = len(channels)
        # Section 3.3: the share of the fields that a layer keeps; the last one keeps three.
        self.kept = [max(3, int((1 - (n / layers) ** (layers - n)) * len(tables))) for n in range(1, layers)] + [3]
        self.mlp = MLP(self.kept[-1] * channels[-1] * dim, hidden, 1)

    def forward(self, sparse: Tensor) -> Tensor:
        """int64 [B, F] -> logits [B]."""
        x = self.embeddings(sparse)[:, None]
        for convolution, kept in zip(self.convolutions, self.kept, strict=True):
            x = convolution(x)
            # The largest values in the order of the fields, not of their size.
            places = x.topk(kept, dim=2).indices.sort(dim=2).values
            x = torch.tanh(x.gather(2, places))
        logits: Tensor = self.mlp(x.flatten(1)).squeeze(1)
        return logits


class FGCNN(_FieldModel):
    """New features by convolution, pooling and recombination, then inner products and an MLP; returns logits [B].

    Liu et al. 2019, "Feature Generation by Convolutional Neural Network for Click-Through Rate Prediction".

    Args:
        tables: Rows of each field's table.
        dim: Columns of the tables.
        channels: Channels of each convolution.
        width: Fields that a convolution covers.
        maps: New features of each channel and pooled field.
        hidden: Hidden widths of the MLP.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dim: int = 16,
        *,
        channels: Sequence[int] = (14, 16, 18),
        width: int = 7,
        maps: int = 2,
        hidden: Sequence[int] = (400, 400),
    ) -> None:
        super().__init__(tables, dim)
        self.dim = dim
        self.convolutions, self.recombined = nn.ModuleList(), nn.ModuleList()
        fields, inputs, made = len(tables), 1, 0
        for outputs in channels:
            self.convolutions.append(nn.Conv2d(inputs, outputs, (width, 1), padding=(width // 2, 0)))
            fields = math.ceil(fields / 2)
            self.recombined.append(nn.Linear(outputs * fields * dim, maps * fields * dim))
            inputs, made = outputs, made + maps * fields
        count = len(tables) + made
        self.register_buffer("pairs", torch.combinations(torch.arange(count)).T.contiguous(), persistent=False)
        self.mlp = MLP(count * dim + count * (count - 1) // 2, hidden, 1)

    def forward(self, sparse: Tensor) -> Tensor:
        """int64 [B, F] -> logits [B]."""
        raw = self.embeddings(sparse)
        features, x = [raw], raw[:, None]
        for convolution, recombine in zip(self.convolutions, self.recombined, strict=True):
            x = F.max_pool2d(torch.tanh(convolution(x)), (2, 1), ceil_mode=True)
            features.append(torch.tanh(recombine(x.flatten(1))).unflatten(1, (-1, self.dim)))
        found = torch.cat(features, 1)
        pairs = self.get_buffer("pairs")
        products = (found[:, pairs[0]] * found[:, pairs[1]]).sum(2)
        logits: Tensor = self.mlp(torch.cat([found.flatten(1), products], 1)).squeeze(1)
        return logits
