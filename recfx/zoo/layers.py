"""Small modules that the models share: field embeddings, MLP, Dice, masked attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recfx.zoo.errors import ZooError, require


class FieldEmbeddings(nn.Module):
    """One table for each sparse field.

    Args:
        tables: Rows of each table.
        dim: Columns of every table.
        std: Standard deviation of the normal distribution of the initial weights.
    """

    def __init__(self, tables: Sequence[int], dim: int, *, std: float = 0.01) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, dim) for rows in tables)
        for table in self.tables:
            nn.init.normal_(table.get_parameter("weight"), std=std)

    def forward(self, sparse: Tensor) -> Tensor:
        """int64 [B, F] -> float [B, F, dim]."""
        return torch.stack([table(sparse[:, field]) for field, table in enumerate(self.tables)], dim=1)


class DenseEmbeddings(nn.Module):
    """A vector for each dense feature, scaled by the feature's value: e_m = x_m v_m (AutoInt, section 4.2)."""

    def __init__(self, features: int, dim: int, *, std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, dim).normal_(std=std))

    def forward(self, dense: Tensor) -> Tensor:
        """float [B, F] -> [B, F, dim]."""
        return dense[:, :, None] * self.weight


class FirstOrder(nn.Module):
    """The linear part of FM-like models: one weight for each dense feature and each sparse value, and a bias."""

    def __init__(self, tables: Sequence[int], dense: int) -> None:
        super().__init__()
        self.sparse = FieldEmbeddings(tables, 1)
        self.dense = nn.Linear(dense, 1)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B]."""
        logits: Tensor = self.dense(dense).squeeze(1) + self.sparse(sparse).sum((1, 2))
        return logits


class Dice(nn.Module):
    """Data-adaptive activation: f(s) = p s + (1 - p) a s with p = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    The moments are the batch's in training and running averages in evaluation. Zhou et al. 2018, "Deep Interest
    Network for Click-Through Rate Prediction", equation 3.

    Args:
        width: Size of the last dimension.
        eps: Added to the variance; the paper's 1e-8.
    """

    def __init__(self, width: int, *, eps: float = 1e-8) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=eps, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape; the moments are over all dimensions but the last."""
        p = torch.sigmoid(self.norm(x.reshape(-1, x.shape[-1]))).reshape(x.shape)
        return p * x + (1 - p) * self.alpha * x


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda width: nn.ReLU(),
    "leaky_relu": lambda width: nn.LeakyReLU(),
    "prelu": lambda width: nn.PReLU(),
    "gelu": lambda width: nn.GELU(),
    "tanh": lambda width: nn.Tanh(),
    "sigmoid": lambda width: nn.Sigmoid(),
    "dice": lambda width: Dice(width),
}


def activation_module(name: str, width: int) -> nn.Module:
    """The activation of the given name, for a layer of the given width.

    Raises:
        ZooError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ZooError(f"unknown activation {name!r}", where="MLP", hint=f"one of {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name](width)


class MLP(nn.Sequential):
    """Linear layers, each followed by optional batch norm, an activation and optional dropout.

    Args:
        inputs: Width of the input.
        hidden: Widths of the layers; empty for the identity.
        outputs: Width of a last linear layer without activation; None for no such layer.
        activation: Name of the activation, see `ACTIVATIONS`.
        dropout: Share of the hidden units dropped in training.
        batch_norm: Whether to normalise each layer's output before its activation; for inputs [B, inputs] only.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int | None = None,
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = inputs
        for width in hidden:
            self.append(nn.Linear(self.out_features, width))
            if batch_norm:
                self.append(nn.BatchNorm1d(width))
            self.append(activation_module(activation, width))
            if dropout > 0:
                self.append(nn.Dropout(dropout))
            self.out_features = width
        if outputs is not None:
            self.append(nn.Linear(self.out_features, outputs))
            self.out_features = outputs


class ItemEmbeddings(nn.Module):
    """Vectors of items: the vector of the id, concatenated with the vector of the category if there are categories.

    Args:
        num_items: Number of items; ids are 1 to num_items, 0 is padding and embeds as zeros.
        dim: Columns of each table.
        categories: int64 [num_items + 1], the category of each item from 1 on (0 for the padding); or a number of
            categories, assigned to the items in turn; 0 for no categories.
        std: Standard deviation of the normal distribution of the initial weights.

    Raises:
        ZooError: The categories do not fit the items.
    """

    category_of: Tensor | None

    def __init__(self, num_items: int, dim: int, categories: Tensor | int = 0, *, std: float = 0.01) -> None:
        super().__init__()
        self.item = padded_table(num_items, dim, std=std)
        self.register_buffer("category_of", _category_of(num_items, categories))
        self.out_features = dim
        if self.category_of is not None:
            self.category = padded_table(int(self.category_of.max()), dim, std=std)
            self.out_features = 2 * dim

    def forward(self, ids: Tensor) -> Tensor:
        """int64 of any shape -> [..., out_features]."""
        item: Tensor = self.item(ids)
        if self.category_of is None:
            return item
        return torch.cat([item, self.category(self.category_of[ids])], dim=-1)


def _category_of(num_items: int, categories: Tensor | int) -> Tensor | None:
    """The category of each item, after a 0 for the padding: int64 [num_items + 1], or None for no categories."""
    where = "ItemEmbeddings"
    if isinstance(categories, int):
        require(categories >= 0, f"the number of categories must not be negative, got {categories}", where=where)
        if categories == 0:
            return None
        dealt = torch.arange(-1, num_items) % categories + 1
        dealt[0] = 0
        return dealt
    require(
        categories.shape == (num_items + 1,) and categories.dtype == torch.int64,
        f"categories must be int64 [{num_items + 1}], got {categories.dtype} {list(categories.shape)}",
        where=where,
        hint="one entry for each item, after a 0 for the padding",
    )
    require(
        int(categories[0]) == 0 and int(categories.min()) == 0,
        "categories must start with 0, the padding's, and hold no negative number",
        where=where,
    )
    return categories.clone()


def padded_table(count: int, dim: int, *, std: float = 0.01) -> nn.Embedding:
    """A table for ids 1 to `count`; row 0 is padding, and stays zero in training."""
    table = nn.Embedding(count + 1, dim, padding_idx=0)
    with torch.no_grad():
        table.weight[1:].normal_(std=std)
    return table


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where `mask` (bool, broadcast) is True, zeros elsewhere.

    Rows without a True are zeros, never NaN.
    """
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1)
    return weights * mask


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads * width] -> [B, heads, L, width]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al. 2017, section 3.2) under a mask.

    Args:
        dim: Width of the input and the output.
        heads: Number of heads; divides `dim`.
        output: Whether a linear layer mixes the heads' outputs; SASRec has none.
        bias: Whether the projections have biases.

    Raises:
        ZooError: The heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, *, output: bool = True, bias: bool = True) -> None:
        super().__init__()
        require(heads >= 1 and dim % heads == 0, f"{heads} heads do not divide a width of {dim}", where="SelfAttention")
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, dim, bias=bias)
        self.value = nn.Linear(dim, dim, bias=bias)
        self.output: nn.Module = nn.Linear(dim, dim, bias=bias) if output else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, L, dim] and bool [B or 1, L, L], True where a row may attend to a column -> [B, L, dim]."""
        query, key, value = (split_heads(project(x), self.heads) for project in (self.query, self.key, self.value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        mixed = masked_softmax(scores, mask[:, None]) @ value
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out
