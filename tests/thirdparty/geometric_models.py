"""torch-geometric: graphs of users and items that are part of the model, graphs of triplets, and dense graphs of sessions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids
from shims import absent
from torch import Tensor, nn

USERS, ITEMS, DIM, RELATIONS, NODES = 20, 30, 16, 4, 6
ALL = USERS + ITEMS


def _of(name: str) -> Any:
    with absent("requests", "aiohttp"):
        return getattr(importlib.import_module("torch_geometric.nn"), name)


def edges() -> Tensor:
    """`[2, edges]`: edges in both directions between every user and five items."""
    rng = torch.Generator().manual_seed(11)
    items = torch.stack([torch.randperm(ITEMS, generator=rng)[:5] for _ in range(USERS)]) + USERS
    pairs = torch.stack([torch.arange(USERS).repeat_interleave(5), items.flatten()])
    return torch.cat([pairs, pairs.flip(0)], 1)


class Ranking(nn.Module):
    """The library's LightGCN over a graph that it owns, for pairs of a user and an item."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.model = _of("LightGCN")(ALL, DIM, layers)
        self.register_buffer("edges", edges())

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores `[batch]`."""
        scores: Tensor = self.model(self.edges, torch.stack([user, item + USERS]))
        return scores


class Pairs(nn.Module):
    """A graph network over embeddings of all nodes, and an MLP over the vectors of a user and an item."""

    def __init__(self, network: nn.Module, typed: bool = False) -> None:
        super().__init__()
        self.nodes = nn.Embedding(ALL, DIM)
        self.network = network
        self.head = nn.Sequential(nn.Linear(2 * DIM, 16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("edges", edges())
        self.register_buffer("types", torch.arange(self.edges.shape[1]) % RELATIONS if typed else None)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Scores `[batch]`."""
        given = (self.edges,) if self.types is None else (self.edges, self.types)
        vectors = self.network(self.nodes.weight, *given)
        return self.head(torch.cat([vectors[user], vectors[item + USERS]], 1)).squeeze(1)


class SessionGraph(nn.Module):
    """Layers over a dense graph of a session's items, with a mask of its nodes, and their mean."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=0)
        if kind == "DenseGINConv":
            self.layer = _of(kind)(nn.Sequential(nn.Linear(DIM, DIM), nn.ReLU(), nn.Linear(DIM, DIM)))
        else:
            self.layer = _of(kind)(DIM, DIM)

    def forward(self, items: Tensor, adjacency: Tensor) -> Tensor:
        """Scores `[batch, ITEMS]`."""
        mask = items != 0
        found = self.layer(self.items(items), adjacency, mask).relu()
        pooled = (found * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return pooled @ self.items.weight.T


class Pooled(nn.Module):
    """An aggregation over the items of each session, all sessions of the same number of items."""

    def __init__(self, aggregation: nn.Module) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM)
        self.aggregation = aggregation
        self.out = nn.Linear(DIM, DIM)

    def forward(self, items: Tensor) -> Tensor:
        """Scores `[batch, ITEMS]`."""
        batch = torch.arange(items.shape[0], device=items.device).repeat_interleave(NODES)
        pooled = self.aggregation(self.items(items).flatten(0, 1), batch, dim_size=items.shape[0])
        return self.out(pooled) @ self.items.weight.T


def _pairs(batch: int, rng: torch.Generator) -> Inputs:
    return (ids(batch, USERS, rng), ids(batch, ITEMS, rng)), {}


def _triplets(batch: int, rng: torch.Generator) -> Inputs:
    return (ids(batch, ALL, rng), ids(batch, RELATIONS, rng), ids(batch, ALL, rng)), {}


def _sessions(batch: int, rng: torch.Generator) -> Inputs:
    items = torch.randint(1, ITEMS, (batch, NODES), generator=rng)
    items = items * (torch.arange(NODES) < torch.randint(1, NODES + 1, (batch, 1), generator=rng))
    adjacency = (torch.rand(batch, NODES, NODES, generator=rng) < 0.4).float()
    held = (items != 0).float()
    return (items, adjacency * held.unsqueeze(1) * held.unsqueeze(2)), {}


def _items(batch: int, rng: torch.Generator) -> Inputs:
    return (torch.randint(0, ITEMS, (batch, NODES), generator=rng),), {}


def _case(name: str, make: Callable[[], nn.Module], inputs: Callable[[int, torch.Generator], Inputs]) -> ModelCase:
    return ModelCase(name, "torch-geometric", "torch_geometric", lambda: BuiltModel(make(), inputs))


def _network(name: str, **options: Any) -> ModelCase:
    return _case(name, lambda: Pairs(_of(name)(DIM, DIM, 2, **options)), _pairs)


def _layer(name: str, typed: bool = False, **options: Any) -> ModelCase:
    return _case(name, lambda: Pairs(_of(name)(DIM, DIM, **options), typed), _pairs)


def _triplet(name: str) -> ModelCase:
    return _case(name, lambda: _of(name)(ALL, RELATIONS, DIM), _triplets)


def _dense(name: str) -> ModelCase:
    return _case(name, partial(SessionGraph, name), _sessions)


def _pooled(name: str, *sizes: int, **options: Any) -> ModelCase:
    return _case(name, lambda: Pooled(_of(name)(*sizes, **options)), _items)


CASES = [
    _case("LightGCN", partial(Ranking, 2), _pairs),
    *(_network(name) for name in ("GCN", "GraphSAGE", "GIN", "GAT")),
    _layer("RGCNConv", typed=True, num_relations=RELATIONS),
    _layer("FastRGCNConv", typed=True, num_relations=RELATIONS),
    _layer("TransformerConv"),
    _network("PNA", aggregators=["mean", "max"], scalers=["identity", "amplification"], deg=torch.tensor([0, 2, 8, 6])),
    *(_layer(name) for name in ("GATv2Conv", "SGConv", "TAGConv", "GraphConv")),
    _layer("ChebConv", K=2),
    _layer("ARMAConv", num_stacks=2),
    _case("LGConv", lambda: Pairs(_of("LGConv")()), _pairs),
    _case("GatedGraphConv", lambda: Pairs(_of("GatedGraphConv")(DIM, 2)), _pairs),
    _case("APPNP", lambda: Pairs(_of("APPNP")(2, 0.1)), _pairs),
    *map(_triplet, ("TransE", "DistMult", "ComplEx", "RotatE")),
    *map(_dense, ("DenseGATConv", "DenseGCNConv", "DenseSAGEConv", "DenseGraphConv", "DenseGINConv")),
    _case("MeanAggregation", lambda: Pooled(_of("MeanAggregation")()), _items),
    _case("AttentionalAggregation", lambda: Pooled(_of("AttentionalAggregation")(nn.Linear(DIM, 1))), _items),
    _pooled("MaxAggregation"),
    _pooled("SoftmaxAggregation", learn=True),
    _pooled("PowerMeanAggregation"),
    _pooled("LSTMAggregation", DIM, DIM),
    _pooled("GRUAggregation", DIM, DIM),
    _pooled("SetTransformerAggregation", DIM, heads=2),
]
