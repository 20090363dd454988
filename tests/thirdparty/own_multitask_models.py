"""Models written for this suite: several tasks or domains over one set of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, own_case
from torch import Tensor, nn

FIELDS, DENSE, DIM = (20, 30, 15), 4, 8
WIDTH = len(FIELDS) * DIM + DENSE
DOMAINS = 3


def tower(given: int, hidden: int = 12, found: int = 1) -> nn.Sequential:
    """Two linear layers with ReLU between."""
    return nn.Sequential(nn.Linear(given, hidden), nn.ReLU(), nn.Linear(hidden, found))


def expert(given: int, found: int = 16) -> nn.Sequential:
    """One linear layer with batch norm and ReLU."""
    return nn.Sequential(nn.Linear(given, found), nn.BatchNorm1d(found), nn.ReLU())


class Features(nn.Module):
    """One table per field, followed by the dense features."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, DIM) for rows in FIELDS)

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        """`[batch, WIDTH]`."""
        return torch.cat([*(table(sparse[:, i]) for i, table in enumerate(self.tables)), dense], 1)


class Tasks(NamedTuple):
    """The outputs of a model of two tasks."""

    click: Tensor
    order: Tensor


class MultiTask(nn.Module):
    """Features, and a body that computes outputs from them."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.features = Features()
        self.body = body

    def forward(self, sparse: Tensor, dense: Tensor) -> Any:
        """The outputs of the body."""
        return self.body(self.features(sparse, dense))


class SharedBottom(nn.Module):
    """One shared bottom, a tower per task, and a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = expert(WIDTH)
        self.towers = nn.ModuleDict({name: tower(16) for name in ("click", "order", "stay")})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Task -> `[batch]`."""
        shared = self.bottom(x)
        return {name: torch.sigmoid(head(shared)).squeeze(1) for name, head in self.towers.items()}


class MixtureOfExperts(nn.Module):
    """MMoE: a gate per task over shared experts; `top` keeps only the largest gates."""

    def __init__(self, experts: int = 4, top: int = 0) -> None:
        super().__init__()
        self.top = top
        self.experts = nn.ModuleList(expert(WIDTH) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, experts, bias=False) for _ in range(2))
        self.towers = nn.ModuleList(tower(16) for _ in range(2))

    def forward(self, x: Tensor) -> Tasks:
        """Two logits `[batch, 1]`."""
        found = torch.stack([e(x) for e in self.experts], dim=1)
        answers = []
        for gate, head in zip(self.gates, self.towers, strict=True):
            scores = gate(x)
            if self.top:
                least = scores.topk(self.top, dim=-1).values[:, -1:]
                scores = scores.masked_fill(scores < least, float("-inf"))
            answers.append(head((scores.softmax(-1).unsqueeze(-1) * found).sum(1)))
        return Tasks(*answers)


class Extraction(nn.Module):
    """PLE: levels of own and shared experts, each task and the shared part with a gate."""

    def __init__(self, levels: int = 2) -> None:
        super().__init__()
        widths = [WIDTH] + [16] * levels
        self.own = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(expert(w) for _ in range(2)) for _ in range(2)) for w in widths[:-1]
        )
        self.shared = nn.ModuleList(nn.ModuleList(expert(w) for _ in range(2)) for w in widths[:-1])
        self.gates = nn.ModuleList(
            nn.ModuleList([nn.Linear(w, 4), nn.Linear(w, 4), nn.Linear(w, 6)]) for w in widths[:-1]
        )
        self.towers = nn.ModuleList(tower(16) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Two probabilities `[batch, 1]`."""
        states = [x, x, x]
        for own, shared, gates in zip(self.own, self.shared, self.gates, strict=True):
            found = [[e(states[task]) for e in own[task]] for task in range(2)]
            common = [e(states[2]) for e in shared]
            groups = [found[0] + common, found[1] + common, found[0] + found[1] + common]
            states = [
                torch.bmm(gate(state).softmax(-1).unsqueeze(1), torch.stack(group, 1)).squeeze(1)
                for gate, state, group in zip(gates, states, groups, strict=True)
            ]
        return [torch.sigmoid(head(state)) for head, state in zip(self.towers, states, strict=False)]


class EntireSpace(nn.Module):
    """ESMM and its relatives: conversion as a product of probabilities along the funnel."""

    def __init__(self) -> None:
        super().__init__()
        self.click, self.order, self.propensity = tower(WIDTH), tower(WIDTH), tower(WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Click, click and order, and a weight by the inverse propensity, clipped."""
        click, order = torch.sigmoid(self.click(x)), torch.sigmoid(self.order(x))
        weight = 1 / torch.sigmoid(self.propensity(x)).clamp(0.05, 1.0)
        return click, click * order, weight


class Transfer(nn.Module):
    """AITM: each task attends over its own state and the state from the task before."""

    def __init__(self, tasks: int = 3, width: int = 8) -> None:
        super().__init__()
        self.bottoms = nn.ModuleList(tower(WIDTH, 16, width) for _ in range(tasks))
        self.hand = nn.ModuleList(nn.Linear(width, width) for _ in range(tasks - 1))
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities `[batch, tasks]`."""
        states = [bottom(x) for bottom in self.bottoms]
        for i, hand in enumerate(self.hand, 1):
            pair = torch.stack([hand(states[i - 1]), states[i]], dim=1)
            scores = (self.q(pair) * self.k(pair)).sum(-1, keepdim=True) / self.width**0.5
            states[i] = (scores.softmax(dim=1) * self.v(pair)).sum(dim=1)
        return torch.cat([torch.sigmoid(head(s)) for head, s in zip(self.heads, states, strict=True)], dim=1)


class CrossStitch(nn.Module):
    """Cross-stitch units: a small matrix mixes the layers of two towers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(expert(WIDTH) for _ in range(2))
        self.second = nn.ModuleList(expert(16, 8) for _ in range(2))
        self.stitch = nn.ParameterList(nn.Parameter(torch.tensor([[0.9, 0.1], [0.2, 0.8]])) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Two logits `[batch, 1]`."""
        states = [x, x]
        for layers, stitch in zip((self.first, self.second), self.stitch, strict=True):
            stacked = torch.stack([layer(state) for layer, state in zip(layers, states, strict=True)], dim=1)
            states = list(torch.einsum("ts,bsd->btd", stitch, stacked).unbind(1))
        return [head(state) for head, state in zip(self.heads, states, strict=True)]


class Gated(nn.Module):
    """PEPNet: gates from prior features scale the embedding and each layer of each tower, without a gradient into them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = tower(DIM + WIDTH, 16, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in ((WIDTH, 16), (16, 8)))
        self.gates = nn.ModuleList(tower(WIDTH + DIM, 8, w) for w in (16, 8))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, 1]`."""
        prior = x[:, :DIM]
        x = x * 2 * torch.sigmoid(self.embedding(torch.cat([prior, x.detach()], -1)))
        given = torch.cat([x.detach(), prior], -1)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = torch.relu(layer(x)) * torch.sigmoid(gate(given)) * 2
        return self.head(x)


class Star(nn.Module):
    """STAR: weights of a domain times shared weights; all domains' outputs are computed, and each row selects its
    own."""

    def __init__(self, picked: str) -> None:
        super().__init__()
        self.picked = picked
        self.features = Features()
        self.shared = nn.Parameter(torch.randn(WIDTH, 8) * 0.2)
        self.own = nn.Parameter(torch.randn(DOMAINS, WIDTH, 8) * 0.2 + 1)
        self.bias = nn.Parameter(torch.randn(DOMAINS, 8) * 0.1)
        self.head = nn.Linear(8, 1)

    def forward(self, sparse: Tensor, dense: Tensor, domain: Tensor) -> Tensor:
        """Probabilities `[batch]` of rows of several domains."""
        x = self.features(sparse, dense)
        if self.picked == "rows":
            weights = self.own[domain] * self.shared
            hidden = torch.bmm(x.unsqueeze(1), weights).squeeze(1) + self.bias[domain]
        else:
            every = torch.einsum("bw,kwd->bkd", x, self.own * self.shared) + self.bias
            if self.picked == "one-hot":
                hidden = (every * nn.functional.one_hot(domain, DOMAINS).to(x.dtype).unsqueeze(-1)).sum(1)
            else:
                hidden = torch.zeros_like(every[:, 0])
                for number in range(DOMAINS):
                    hidden = torch.where((domain == number).unsqueeze(1), every[:, number], hidden)
        return torch.sigmoid(self.head(torch.relu(hidden)).squeeze(1))


def _inputs(batch: int, rng: torch.Generator) -> Inputs:
    sparse = torch.stack([ids(batch, rows, rng) for rows in FIELDS], 1)
    return (sparse, torch.randn(batch, DENSE, generator=rng)), {}


def _domains(batch: int, rng: torch.Generator) -> Inputs:
    args, _ = _inputs(batch, rng)
    return (*args, ids(batch, DOMAINS, rng)), {}


def _case(name: str, make: Callable[[], nn.Module]) -> ModelCase:
    return own_case(name, lambda: BuiltModel(MultiTask(make()), _inputs))


def _star(picked: str) -> ModelCase:
    return own_case(f"STAR-{picked}", lambda: BuiltModel(Star(picked), _domains))


CASES = [
    _case("SharedBottom", SharedBottom),
    _case("MMoE", MixtureOfExperts),
    _case("MMoE-top-gates", lambda: MixtureOfExperts(top=2)),
    _case("PLE", Extraction),
    _case("ESMM", EntireSpace),
    _case("AITM", Transfer),
    _case("cross-stitch", CrossStitch),
    _case("PEPNet", Gated),
    _star("rows"),
    _star("one-hot"),
    _star("where"),
]
