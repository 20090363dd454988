"""Models written for this suite: encoders of a user's history, with common masks and paddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from corpus import BuiltModel, Inputs, ModelCase, own_case, padded_history
from torch import Tensor, nn

ITEMS, DIM, LENGTH, HEADS = 40, 16, 8, 2


def left_padded(batch: int, rng: torch.Generator) -> Tensor:
    """Histories `[batch, LENGTH]`, the newest item last, zeros in front of short ones."""
    values, _ = padded_history(batch, LENGTH, ITEMS, rng)
    return values.flip(1)


def causal() -> Tensor:
    """`[LENGTH, LENGTH]`, true where a position must not attend."""
    return torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


class Histories(nn.Module):
    """Embeds items and positions, encodes, and scores all items with the last position.

    Args:
        encode: `(vectors, padding) -> vectors`, over `[batch, LENGTH, DIM]` and a mask that is true for padding.
    """

    def __init__(self, encode: nn.Module) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.positions = nn.Embedding(LENGTH, DIM)
        self.encode = encode
        self.norm = nn.LayerNorm(DIM)

    def forward(self, history: Tensor) -> Tensor:
        """Scores `[batch, ITEMS]` of the next item."""
        padding = history == 0
        places = torch.arange(history.shape[1], device=history.device)
        x = (self.items(history) * DIM**0.5 + self.positions(places)) * (~padding).unsqueeze(-1)
        last = self.norm(self.encode(x, padding))[:, -1]
        return last @ self.items.weight.T


class SelfAttention(nn.Module):
    """SASRec's blocks: attention by hand, causal and padding masks, feed-forward of two pointwise convolutions.

    Args:
        form: How the mask is applied: "fill" writes -inf into scores, "big" adds -1e9, "sdpa" gives a boolean mask to torch's operator.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)
        self.first, self.second = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.up, self.down = nn.Conv1d(DIM, 2 * DIM, 1), nn.Conv1d(2 * DIM, DIM, 1)
        self.register_buffer("causal", causal(), persistent=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, DIM // HEADS).transpose(1, 2)
            for part in self.qkv(self.first(x)).chunk(3, dim=-1)
        )
        hidden = self.causal | padding[:, None, None, :]
        if self.form == "sdpa":
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
        else:
            scores = q @ k.transpose(-2, -1) / (DIM // HEADS) ** 0.5
            if self.form == "fill":
                mixed = scores.masked_fill(hidden, -1e4).softmax(-1) @ v
            else:
                mixed = (scores + hidden.float() * -1e9).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, DIM))
        widened = self.down(F.gelu(self.up(self.second(x).transpose(1, 2))))
        return (x + widened.transpose(1, 2)) * (~padding).unsqueeze(-1)


class MultiHead(nn.Module):
    """`nn.MultiheadAttention` with a padding mask, and optionally the mean of its weights as a gate."""

    def __init__(self, batch_first: bool, weights: bool, masked: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=batch_first)
        self.batch_first, self.weights, self.masked = batch_first, weights, masked
        self.register_buffer("causal", causal(), persistent=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`; the newest position is never padding, so only rows of padding have all keys masked."""
        given = x if self.batch_first else x.transpose(0, 1)
        mixed, weights = self.attention(
            given,
            given,
            given,
            key_padding_mask=padding,
            attn_mask=self.causal.T if self.masked else None,
            need_weights=self.weights,
        )
        mixed = mixed if self.batch_first else mixed.transpose(0, 1)
        return x + mixed * (1 + weights.amax(-1, keepdim=True)) if self.weights else x + mixed


class TorchEncoder(nn.Module):
    """`nn.TransformerEncoder`, norm first or last, with the padding mask that BERT4Rec uses."""

    def __init__(self, norm_first: bool, activation: str) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            DIM, HEADS, 2 * DIM, batch_first=True, norm_first=norm_first, activation=activation
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        encoded: Tensor = self.encoder(x, src_key_padding_mask=padding)
        return encoded


class Hstu(nn.Module):
    """A block of HSTU: pointwise SiLU attention with a relative bias, gated by a fourth projection."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(DIM, 4 * DIM)
        self.bias = nn.Parameter(torch.randn(2 * LENGTH - 1) * 0.1)
        self.norm, self.inner = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.out = nn.Linear(DIM, DIM)
        places = torch.arange(LENGTH)
        self.register_buffer("distance", places[:, None] - places[None, :] + LENGTH - 1, persistent=False)
        self.register_buffer("causal", causal(), persistent=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        batch, length, _ = x.shape
        u, v, q, k = F.silu(self.project(self.norm(x))).split(DIM, dim=-1)
        q, k, v = (part.view(batch, length, HEADS, -1) for part in (q, k, v))
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) + self.bias[self.distance]
        allowed = ~(self.causal | padding[:, None, :])
        weights = F.silu(scores) / length * allowed.unsqueeze(1)
        mixed = torch.einsum("bhnm,bmhd->bnhd", weights, v).reshape(batch, length, DIM)
        return x + self.out(self.inner(mixed) * u)


class Rotary(nn.Module):
    """Attention with rotary positions and grouped keys, RMS norm and SwiGLU, as in decoders of language models."""

    def __init__(self) -> None:
        super().__init__()
        half = DIM // HEADS // 2
        angles = torch.arange(LENGTH)[:, None] / 10000 ** (torch.arange(half) / half)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        self.q, self.kv = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.out, self.gate = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, 4 * DIM, bias=False)
        self.down = nn.Linear(2 * DIM, DIM, bias=False)
        self.norms = nn.ModuleList(nn.RMSNorm(DIM) for _ in range(2))

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        batch, length, _ = x.shape
        held = self.norms[0](x)
        q = self.q(held).view(batch, length, HEADS, -1).transpose(1, 2)
        k, v = self.kv(held).view(batch, length, 2, 1, -1).unbind(2)
        k, v = (part.transpose(1, 2).expand(-1, HEADS, -1, -1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        gate, value = self.gate(self.norms[1](x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * value)


class Recurrent(nn.Module):
    """GRU4Rec: a recurrent layer over the padded history; "last" selects the state at each row's own length."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(DIM, DIM, batch_first=True)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`, with the state of the last item at the last position."""
        states, _ = self.layer(x)
        last = (LENGTH - padding.flip(1).int().argmin(1) - 1).clamp(min=0)
        picked = states.gather(1, last[:, None, None].expand(-1, 1, DIM))
        return self.out(picked)


class Caser(nn.Module):
    """Horizontal convolutions of several heights with max over time, and vertical ones over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ModuleList(nn.Conv2d(1, 4, (height, DIM)) for height in (2, 3, 4))
        self.columns = nn.Conv2d(1, 2, (LENGTH, 1))
        self.out = nn.Linear(12 + 2 * DIM, DIM)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`, one position."""
        image = x.unsqueeze(1)
        found = [
            F.max_pool1d(F.relu(conv(image)).squeeze(3), LENGTH - h).squeeze(2) for h, conv in enumerate(self.rows, 1)
        ]
        vertical = self.columns(image).flatten(1)
        return self.out(torch.cat([*found, vertical], 1)).unsqueeze(1)


class Dilated(nn.Module):
    """NextItNet: causal dilated convolutions with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(DIM, DIM, 3, dilation=d) for d in (1, 2))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            held = F.pad(x.transpose(1, 2), (2 * conv.dilation[0], 0))
            x = x + F.relu(norm(conv(held).transpose(1, 2)))
        return x


class Filter(nn.Module):
    """FMLP: a learned filter of the history's frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(LENGTH // 2 + 1, DIM, 2) * 0.2)
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """As `Histories.encode`."""
        spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * torch.view_as_complex(self.weight)
        return self.norm(x + torch.fft.irfft(spectrum, n=LENGTH, dim=1, norm="ortho"))


def _inputs(batch: int, rng: torch.Generator) -> Inputs:
    return (left_padded(batch, rng),), {}


def _right(batch: int, rng: torch.Generator) -> Inputs:
    return (padded_history(batch, LENGTH, ITEMS, rng)[0],), {}


def _case(name: str, make: Callable[[], nn.Module], right: bool = False) -> ModelCase:
    return own_case(name, lambda: BuiltModel(Histories(make()), _right if right else _inputs))


CASES = [
    _case("SASRec-masked-fill", partial(SelfAttention, "fill")),
    _case("SASRec-added-mask", partial(SelfAttention, "big")),
    _case("SASRec-sdpa", partial(SelfAttention, "sdpa")),
    _case("MHA-padding", partial(MultiHead, True, False, False)),
    _case("MHA-padding-weights", partial(MultiHead, True, True, False)),
    _case("MHA-batch-second", partial(MultiHead, False, False, False)),
    _case("MHA-batch-second-masks", partial(MultiHead, False, False, True)),
    _case("BERT4Rec-post-norm", partial(TorchEncoder, False, "gelu")),
    _case("BERT4Rec-pre-norm", partial(TorchEncoder, True, "relu")),
    _case("HSTU-block", Hstu),
    _case("rotary-decoder", Rotary),
    _case("GRU4Rec-last", partial(Recurrent, "GRU"), right=True),
    _case("LSTM-last", partial(Recurrent, "LSTM"), right=True),
    _case("Caser", Caser),
    _case("NextItNet", Dilated),
    _case("FMLP-filter", Filter),
]
