"""The small modules that calibration measures: at least one for each family of operators, and a grid of matrix products."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Example inputs of a module at a number of rows.
Inputs = Callable[[int], tuple[Tensor, ...]]

#: Outputs and inputs of the measured layers.
LAYERS = (
    (256, 256),
    (16, 64),
    (1024, 1024),
    (64, 256),
    (256, 64),
    (64, 16),
    (1024, 256),
    (256, 1024),
    (1, 64),
    (1, 13),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A module to measure.

    Attributes:
        name: Its name.
        build: Makes the module.
        inputs: Rows -> its inputs.
        precision: A precision of `recfx.optimize`.
        rows: The largest number of rows, for modules with much work in a row.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    precision: str = "fp32"
    rows: int = 1024


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> object:
        return self.function(*inputs)


class _Bags(nn.Module):
    """Sums of bags of equal length from several tables, side by side."""

    def __init__(self, tables: int, rows: int, width: int, length: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, width, mode="sum") for _ in range(tables))
        self.length = length

    def forward(self, ids: Tensor) -> Tensor:
        parts = ids.split(self.length, dim=1)
        return torch.cat([table(part) for table, part in zip(self.tables, parts, strict=True)], dim=1)


class _Tables(nn.Module):
    """Rows of several tables, side by side."""

    def __init__(self, tables: int, rows: int, width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, width) for _ in range(tables))

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cat([table(ids[:, at]) for at, table in enumerate(self.tables)], dim=1)


class _Selected(nn.Module):
    """Numbers of a buffer, such as the category of an item."""

    numbers: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.arange(count))

    def forward(self, ids: Tensor) -> Tensor:
        return self.numbers[ids[:, 0]]


class _Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, steps: Tensor) -> Tensor:
        last: Tensor = self.layer(steps)[0][:, -1]
        return last


class _Crosses(nn.Module):
    """Cross layers of DCN v2."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, first: Tensor) -> Tensor:
        x = first
        for layer in self.layers:
            x = first * layer(x) + x
        return x


class _InteractionNetwork(nn.Module):
    """A layer of xDeepFM's compressed interaction network: products of all pairs of fields, then a 1 x 1 convolution."""

    def __init__(self, fields: int, maps: int) -> None:
        super().__init__()
        self.maps = nn.Conv1d(fields * fields, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        pairs = (x.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2)
        pooled: Tensor = torch.relu(self.maps(pairs)).sum(dim=-1)
        return pooled


class _TargetAttention(nn.Module):
    """Attention of DIN: scores from an MLP over query, keys, difference and product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scores = nn.Sequential(nn.Linear(4 * width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        repeated = query.unsqueeze(1).expand(-1, keys.shape[1], -1)
        joined = torch.cat([repeated, keys, repeated - keys, repeated * keys], dim=-1)
        pooled: Tensor = (self.scores(joined) * keys).sum(dim=1)
        return pooled


class _Heads(nn.Module):
    """Self-attention with heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.joined, self.last, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        query, keys, values = self.joined(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: Tensor = self.last(F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2))
        return mixed


def _dots(x: Tensor) -> Tensor:
    row, column = torch.tril_indices(x.shape[1], x.shape[1], -1).unbind(0)
    return torch.bmm(x, x.transpose(1, 2))[:, row, column]


def _fm(x: Tensor) -> Tensor:
    return 0.5 * (x.sum(dim=1) ** 2 - (x**2).sum(dim=1)).sum(dim=1, keepdim=True)


def _chain(x: Tensor) -> Tensor:
    for step in range(16):
        x = torch.minimum(x, x + step) if step % 2 else x * 1.01
    return x


def _wide(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > 0, x * y, x - y)


def _transcendental(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.tanh(x) + torch.exp(-x.abs())


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.std(dim=1), x.cumsum(dim=1)


def _copies(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.unflatten(1, (8, -1)).transpose(1, 2).contiguous(), x.flip(1)


def numbers(*shape: int) -> Inputs:
    """Rows -> one tensor of normal numbers."""
    return lambda rows: (_normal(rows, *shape),)


def _pairs(*shape: int) -> Inputs:
    return lambda rows: (_normal(rows, *shape), _normal(rows, *shape))


def _ids(columns: int, table: int) -> Inputs:
    def draw(rows: int) -> tuple[Tensor, ...]:
        return (torch.randint(table, (rows, columns), generator=torch.Generator().manual_seed(rows)),)

    return draw


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _layer(outputs: int, inputs: int, precision: str = "fp32") -> Subject:
    name = f"{precision} product {outputs} x {inputs}"
    return Subject(name, lambda: nn.Linear(inputs, outputs), numbers(inputs), precision)


def _mlp(*widths: int, precision: str = "fp32") -> Subject:
    def build() -> nn.Module:
        parts: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            parts += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*parts[:-1], nn.Sigmoid())

    return Subject(f"{precision} MLP {'-'.join(map(str, widths))}", build, numbers(widths[0]), precision)


def _plain(name: str, function: Callable[..., object], inputs: Inputs, rows: int = 1024) -> Subject:
    return Subject(name, lambda: _Function(function), inputs, rows=rows)


#: What the cost of a call and of hand-offs is measured with.
CALL = _plain("call", lambda x: x * 1.5, numbers(1024))
VIEW = _plain("view", lambda x: x.unflatten(1, (2, 4)), numbers(8))
CHAIN = _plain("chain of operators", _chain, numbers(32))


def subjects(precisions: Sequence[str] = ("fp32",)) -> list[Subject]:
    """The modules to measure, the most important first: time may not suffice for all on a backend that compiles for long.

    Args:
        precisions: The precisions that are measured.
    """
    narrow = [p for p in precisions if p != "fp32"]
    first = [CALL, VIEW, _layer(*LAYERS[0]), _mlp(256, 256, 64, 1), CHAIN]
    layers = [_layer(*shape) for shape in LAYERS[1:]]
    products = [_layer(*shape, precision=p) for p in narrow for shape in LAYERS[:3]]
    chains = [_mlp(256, 256, 64, 1, precision=p) for p in narrow]
    return [*first, *_others(), *layers, *products, *chains]


def _others() -> list[Subject]:
    convolutions = nn.Sequential
    return [
        Subject("lookups", lambda: _Tables(16, 50_000, 16), _ids(16, 50_000)),
        Subject("bags", lambda: _Bags(4, 50_000, 64, 10), _ids(40, 50_000), rows=256),
        Subject("attention", lambda: _Heads(64, 4), numbers(24, 64), rows=256),
        Subject("target attention", lambda: _TargetAttention(16), _query(16, 20), rows=256),
        Subject("GRU", lambda: _Last(nn.GRU(32, 32, batch_first=True)), numbers(16, 32), rows=256),
        Subject(
            "convolution", lambda: convolutions(nn.Conv1d(26, 16, 3, padding=1), nn.ReLU()), numbers(26, 16), rows=256
        ),
        Subject(
            "convolution and pooling",
            lambda: convolutions(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            numbers(3, 16, 16),
            rows=64,
        ),
        _plain("element-wise operators", _wide, _pairs(1024)),
        _plain("scaled rows", lambda x, y: (x[:, :1] * y, x.unsqueeze(2) + y.unsqueeze(1)), _pairs(48)),
        _plain("masks", lambda x, y: (x.masked_fill(y > 0, 0.0), x.ne(0) & ~y.eq(1)), _pairs(64)),
        _plain("vectors", lambda x: (x[:, 0] + x[:, 1], x[:, 2] * x[:, 3]), numbers(8)),
        _plain("joined columns", lambda x: torch.cat([x[:, :1], x[:, 3:4]], dim=1), numbers(8)),
        Subject("narrow lookups", lambda: _Tables(4, 50_000, 1), _ids(4, 50_000)),
        Subject("few lookups", lambda: _Tables(2, 5_000, 64), _ids(2, 5_000)),
        Subject("selected numbers", lambda: _Selected(50_000), _ids(1, 50_000)),
        _plain("transcendental functions", _transcendental, numbers(256)),
        _plain("sums", lambda x: (x.sum(dim=1), x.mean(dim=2)), numbers(26, 32)),
        _plain("statistics", _statistics, numbers(128), rows=256),
        Subject("normalization", lambda: nn.Sequential(nn.LayerNorm(256), nn.Softmax(dim=-1)), numbers(256)),
        _plain("concatenation", lambda x, y: torch.cat([x, y, x], dim=1), _pairs(128)),
        _plain("copies", _copies, numbers(256)),
        _plain("batched products", lambda x, y: torch.bmm(x, y.transpose(1, 2)), _pairs(26, 16)),
        _plain("dot interaction", _dots, numbers(27, 16)),
        _plain("factorization machine", _fm, numbers(26, 16)),
        Subject("interaction network", lambda: _InteractionNetwork(16, 32), numbers(16, 16), rows=256),
        Subject("cross layers", lambda: _Crosses(256, 2), numbers(256)),
        _plain("top-k", lambda x: torch.topk(x, 5, dim=1)[0], numbers(64), rows=256),
        _plain("Fourier transform", lambda x: torch.fft.rfft(x, dim=1).abs(), numbers(32, 32), rows=64),
    ]


def _query(width: int, length: int) -> Inputs:
    return lambda rows: (_normal(rows, width), _normal(rows, length, width))
