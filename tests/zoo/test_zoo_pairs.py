"""LightGCN against powers of the dense normalised adjacency, NeuMF against its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recfx.zoo import LightGCN, NeuMF, NormalizedAdjacency, ZooModel

# User 3 and item 0 have no neighbour; one interaction is given twice.
INTERACTIONS = torch.tensor([[0, 0, 1, 2, 2, 2, 0], [1, 4, 4, 1, 2, 3, 4]])


def _dense_adjacency() -> Tensor:
    ratings = torch.zeros(4, 5, dtype=torch.float64)
    for user, item in INTERACTIONS.T.tolist():
        ratings[user, item] = 1
    adjacency = torch.zeros(9, 9, dtype=torch.float64)
    adjacency[:4, 4:] = ratings
    adjacency[4:, :4] = ratings.T
    degrees = adjacency.sum(1)
    scale = torch.where(degrees > 0, degrees.clamp(min=1) ** -0.5, 0)
    return scale[:, None] * adjacency * scale


def test_adjacency_product_is_the_dense_one(generator: torch.Generator) -> None:
    adjacency = NormalizedAdjacency(4, 5, INTERACTIONS)
    assert adjacency.weights.isfinite().all()
    assert len(adjacency.neighbours) == 12
    x = torch.randn(9, 3, generator=generator)
    torch.testing.assert_close(adjacency(x), (_dense_adjacency() @ x.double()).float())
    assert torch.equal(adjacency(torch.eye(9)), adjacency(torch.eye(9)).T)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_is_the_mean_of_matrix_powers(layers: int) -> None:
    torch.manual_seed(0)
    model = LightGCN.for_interactions(4, 5, *INTERACTIONS, dim=3, layers=layers)
    start = torch.cat([model.users.weight, model.items.weight]).double()
    powers = [torch.linalg.matrix_power(_dense_adjacency(), power) @ start for power in range(layers + 1)]
    final = (sum(powers, torch.zeros_like(start)) / (layers + 1)).float()
    users, items = model.embeddings()
    torch.testing.assert_close(torch.cat([users, items]), final)
    user, item = torch.arange(4).repeat_interleave(5), torch.arange(5).repeat(4)
    torch.testing.assert_close(model(user, item), (final[:4] @ final[4:].T).flatten())


def test_lightgcn_without_interactions_is_matrix_factorisation() -> None:
    none = torch.empty(0, dtype=torch.int64)
    model = LightGCN.for_interactions(2, 3, none, none, dim=4, layers=1)
    users, items = torch.tensor([0, 1]), torch.tensor([2, 0])
    expected = (model.users(users) * model.items(items)).sum(1) / 4  # each side is halved, as layer 1 is zero
    torch.testing.assert_close(model(users, items), expected)


def test_drawn_graphs_are_always_the_same() -> None:
    torch.manual_seed(1)
    first = LightGCN.small().state_dict()
    torch.manual_seed(2)
    second = LightGCN.small().state_dict()
    for name in ("adjacency.offsets", "adjacency.neighbours", "adjacency.weights"):
        assert torch.equal(first[name], second[name])


def test_neumf_formula(make_model: Callable[[str], ZooModel]) -> None:
    model = make_model("neumf")
    assert isinstance(model, NeuMF)
    users, items = model.example_inputs(5)
    logits = model(users, items)
    first, _, second, _ = model.mlp
    for row, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        product = model.user_factors.weight[user] * model.item_factors.weight[item]
        joined = torch.cat([model.user_embeddings.weight[user], model.item_embeddings.weight[item]])
        deep = torch.relu(second(torch.relu(first(joined))))
        torch.testing.assert_close(logits[row], model.output(torch.cat([product, deep]))[0])
