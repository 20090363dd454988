"""Models written for this suite: gates, masks, crosses and attention over fields."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from own_ctr_models import COUNT, DIM, FIELDS, PAIRS, WIDTH, field_case, mlp
from torch import Tensor, nn


class MaskBlocks(nn.Module):
    """MaskNet: masks from the whole input scale each block's hidden layer; the blocks are parallel or serial."""

    def __init__(self, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in FIELDS)
        wide = [WIDTH, WIDTH if parallel else 16]
        self.masks = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, w)) for w in wide)
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(w, 16), nn.LayerNorm(16), nn.ReLU()) for w in wide)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 32]` or `[batch, 16]`."""
        flat = x.flatten(1)
        normed = torch.cat([norm(x[:, i]) for i, norm in enumerate(self.norms)], 1)
        if self.parallel:
            return torch.cat([h(m(flat) * normed) for m, h in zip(self.masks, self.hidden, strict=True)], 1)
        for mask, hidden in zip(self.masks, self.hidden, strict=True):
            normed = hidden(mask(flat) * normed)
        return normed


class Senet(nn.Module):
    """FiBiNET: fields squeezed to means (and maxima), excited by an MLP, bilinear products of both versions."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.grouped = grouped
        count = 2 * COUNT if grouped else COUNT
        self.excite = nn.Sequential(nn.Linear(count, 2), nn.ReLU(), nn.Linear(2, COUNT), nn.ReLU())
        self.bilinear = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 2 * pairs * DIM]`."""
        squeezed = torch.cat([x.max(-1).values, x.mean(-1)], 1) if self.grouped else x.mean(-1)
        scaled = x * self.excite(squeezed).unsqueeze(-1)
        found = []
        for version in (x, scaled):
            turned = self.bilinear(version)
            found += [turned[:, i] * version[:, j] for i, j in PAIRS]
        return torch.cat(found, -1)


class FinalMlp(nn.Module):
    """FinalMLP: two gated streams, fused by a bilinear form of heads."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, WIDTH), nn.Sigmoid()) for _ in "ab"
        )
        self.streams = nn.ModuleList([mlp(WIDTH, 24, 16), mlp(WIDTH, 16)])
        self.left, self.right = nn.Linear(16, 1), nn.Linear(16, 1)
        self.cross = nn.Parameter(torch.randn(heads, 8 * 8, 1) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, 1]`."""
        flat = x.flatten(1)
        a, b = (stream(flat * 2 * gate(flat)) for stream, gate in zip(self.streams, self.gates, strict=True))
        first, second = a.view(-1, self.heads, 8), b.view(-1, self.heads, 8)
        outer = torch.matmul(first.unsqueeze(3), second.unsqueeze(2)).flatten(2)
        crossed = torch.matmul(outer.unsqueeze(2), self.cross).squeeze(3).sum(1)
        return self.left(a) + self.right(b) + crossed


class CrossMixture(nn.Module):
    """DCNv2's mixture of low-rank experts, gated by the first layer's input."""

    def __init__(self, layers: int = 2, experts: int = 3, rank: int = 4) -> None:
        super().__init__()
        self.experts = experts
        self.u, self.v = (nn.Parameter(torch.randn(layers, experts, WIDTH, rank) * 0.2) for _ in "uv")
        self.c = nn.Parameter(torch.randn(layers, experts, rank, rank) * 0.4)
        self.bias = nn.Parameter(torch.zeros(layers, WIDTH))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, 1, bias=False) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, WIDTH]`."""
        first = found = x.flatten(1)
        for u, v, c, bias in zip(self.u, self.v, self.c, self.bias, strict=True):
            outputs, scores = [], []
            for expert in range(self.experts):
                scores.append(self.gates[expert](found))
                low = torch.tanh(torch.tanh(found @ v[expert]) @ c[expert].T)
                outputs.append(first * (low @ u[expert].T + bias))
            mixed = torch.stack(outputs, 2) @ torch.stack(scores, 1).softmax(1)
            found = found + mixed.squeeze(2)
        return found


class GatedCross(nn.Module):
    """GDCN: cross layers with an information gate on their products."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.cross = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))
        self.gate = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(WIDTH)) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, WIDTH]`."""
        first = found = x.flatten(1)
        for cross, gate, bias in zip(self.cross, self.gate, self.bias, strict=True):
            found = first * (cross(found) + bias) * torch.sigmoid(gate(found)) + found
        return found


class Attention(nn.Module):
    """AutoInt with residuals, and DESTINE's disentangled scores: pairs without their means, plus a term for each
    key."""

    def __init__(self, disentangled: bool) -> None:
        super().__init__()
        self.disentangled = disentangled
        self.q, self.k, self.v, self.r = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))
        self.unary = nn.Linear(DIM, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, WIDTH]`."""
        q, k, v = (torch.stack(torch.split(f(x), DIM // 2, dim=2)) for f in (self.q, self.k, self.v))
        if self.disentangled:
            q, k = q - q.mean(2, keepdim=True), k - k.mean(2, keepdim=True)
        weights = torch.einsum("hbnd,hbmd->hbnm", q, k).softmax(-1)
        if self.disentangled:
            weights = weights + self.unary(x).softmax(1).permute(2, 0, 1).unsqueeze(2)
        mixed = torch.cat(torch.matmul(weights, v).unbind(0), -1)
        return F.relu(mixed + self.r(x)).flatten(1)


class Residual(nn.Module):
    """Deep Crossing: residual units over all features, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList(mlp(WIDTH, 20, WIDTH, last=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, WIDTH]`."""
        found = x.flatten(1)
        for unit in self.units:
            found = F.relu(unit(found) + found)
        return found


CASES = [
    field_case("MaskNet-parallel", lambda: MaskBlocks(True), 32),
    field_case("MaskNet-serial", lambda: MaskBlocks(False), 16),
    field_case("FiBiNET", lambda: Senet(False), 2 * len(PAIRS) * DIM),
    field_case("FiBiNET-plus", lambda: Senet(True), 2 * len(PAIRS) * DIM),
    field_case("FinalMLP", FinalMlp, 1),
    field_case("DCNv2-mixture", CrossMixture, WIDTH),
    field_case("GDCN", GatedCross, WIDTH),
    field_case("AutoInt-split-heads", lambda: Attention(False), WIDTH),
    field_case("DESTINE", lambda: Attention(True), WIDTH),
    field_case("DeepCrossing", Residual, WIDTH),
]
