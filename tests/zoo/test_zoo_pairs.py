"""LightGCN against powers of the dense normalised adjacency, NeuMF against its formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recfx.zoo import NGCF, LightGCN, MatrixFactorization, NeuMF, NormalizedAdjacency, ZooModel
from recfx.zoo.ngcf import PropagationLayer

# User 3 and item 0 have no neighbour; one interaction occurs twice.
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


def test_adjacency_product_has_its_gradient_and_that_one_too() -> None:
    adjacency = NormalizedAdjacency(4, 5, INTERACTIONS).double()
    x = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(adjacency, (x,))
    assert torch.autograd.gradgradcheck(adjacency, (x,))


def test_lightgcn_takes_any_weights() -> None:
    model = LightGCN(4, 5, INTERACTIONS, dim=3, layers=2, weights=(0.0, 0.5, -2.0))
    start = torch.cat([model.users.weight, model.items.weight]).double()
    first = _dense_adjacency() @ start
    want = 0.5 * first - 2 * _dense_adjacency() @ first
    torch.testing.assert_close(torch.cat(model.embeddings()), want.float())


def test_ngcf_is_its_formula() -> None:
    torch.manual_seed(0)
    model = NGCF.for_interactions(4, 5, *INTERACTIONS, dim=3, layers=(4, 2), dropout=0.1).eval()
    x = torch.cat([model.users.weight, model.items.weight]).double()
    parts = [x]
    for layer in model.layers:
        assert isinstance(layer, PropagationLayer)
        with torch.no_grad():
            layer.sum.bias.normal_()
        near = _dense_adjacency() @ x
        message = (x + near) @ layer.sum.weight.double().T + layer.sum.bias
        message = message + (x * near) @ layer.product.weight.double().T + layer.product.bias
        x = torch.where(message > 0, message, 0.2 * message)
        parts.append(x / x.norm(dim=1, keepdim=True))
    users, items = model.embeddings()
    torch.testing.assert_close(torch.cat([users, items]), torch.cat(parts, 1).float(), rtol=1e-4, atol=1e-5)
    assert users.shape == (4, 9)


def test_mf_is_its_tables() -> None:
    model = MatrixFactorization.for_interactions(3, 4, dim=2)
    users, items = torch.tensor([2, 0]), torch.tensor([3, 3])
    assert torch.equal(model(users, items), (model.users.weight[users] * model.items.weight[items]).sum(1))
    assert all(torch.equal(*pair) for pair in zip(model.rows(users, items), model.base_rows(users, items), strict=True))


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
