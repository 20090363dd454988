"""Feature interactions of the click models against loops written from the papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from recfx.zoo import AutoInt, DCNv2, MMoE, WideDeep, ZooModel
from recfx.zoo.autoint import InteractingLayer
from recfx.zoo.dcn_v2 import CrossLayer, LowRankCrossLayer
from recfx.zoo.deepfm import FactorizationMachine
from recfx.zoo.dlrm import DLRM, DotInteraction
from recfx.zoo.wide_deep import CrossProducts
from recfx.zoo.xdeepfm import CompressedInteraction


@pytest.fixture
def vectors(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 6, 4, dtype=torch.float64, generator=generator)


def test_fm_is_the_sum_over_pairs(vectors: Tensor) -> None:
    expected = sum((vectors[:, i] * vectors[:, j]).sum(1) for i, j in combinations(range(6), 2))
    torch.testing.assert_close(FactorizationMachine()(vectors), expected)


@pytest.mark.parametrize("diagonal", [False, True])
def test_dot_interaction_is_the_lower_triangle(vectors: Tensor, diagonal: bool) -> None:
    interaction = DotInteraction(6, diagonal=diagonal)
    columns = []
    for i in range(6):
        for j in range(i + 1 if diagonal else i):
            columns.append(torch.stack([vectors[b, i] @ vectors[b, j] for b in range(3)]))
    expected = torch.stack(columns, dim=1)
    assert interaction.out_features == expected.shape[1]
    torch.testing.assert_close(interaction(vectors), expected)


def test_dlrm_joins_dense_and_interactions(make_model: Callable[[str], ZooModel]) -> None:
    model = make_model("dlrm").double()
    assert isinstance(model, DLRM)
    dense, sparse = model.example_inputs(4)
    x = model.bottom(dense.double())
    assert bool((x >= 0).all())  # the bottom MLP's last layer has a ReLU too
    parts = [x, *(table(sparse[:, field]) for field, table in enumerate(model.embeddings.tables))]
    pairs = [(parts[i] * parts[j]).sum(1, keepdim=True) for i in range(len(parts)) for j in range(i)]
    expected = model.top(torch.cat([x, *pairs], dim=1)).squeeze(1)
    torch.testing.assert_close(model(dense.double(), sparse), expected)


def test_cross_layer_formula(generator: torch.Generator) -> None:
    layer = CrossLayer(5).double()
    x0, x = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    expected = torch.empty_like(x)
    for b in range(3):
        for i in range(5):
            total = layer.linear.bias[i] + sum(layer.linear.weight[i, j] * x[b, j] for j in range(5))
            expected[b, i] = x0[b, i] * total + x[b, i]
    torch.testing.assert_close(layer(x0, x), expected)


def test_low_rank_cross_layer_is_a_cross_layer_of_the_product(generator: torch.Generator) -> None:
    low, full = LowRankCrossLayer(5, 2).double(), CrossLayer(5).double()
    with torch.no_grad():
        full.linear.weight.copy_(low.up.weight @ low.down.weight)
        full.linear.bias.copy_(low.up.bias)
    assert torch.linalg.matrix_rank(full.linear.weight) == 2
    x0, x = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(low(x0, x), full(x0, x))


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_dcn_structures(structure: str) -> None:
    torch.manual_seed(0)
    model = DCNv2.small(structure=structure).eval()
    dense, sparse = model.example_inputs(4)
    embedded = [table(sparse[:, field]) for field, table in enumerate(model.embeddings.tables)]
    x0 = torch.cat([dense, *embedded], dim=1)
    first, second = model.cross
    x1 = x0 * (x0 @ first.linear.weight.T + first.linear.bias) + x0
    x2 = x0 * (x1 @ second.linear.weight.T + second.linear.bias) + x1
    features = model.deep(x2) if structure == "stacked" else torch.cat([x2, model.deep(x0)], dim=1)
    torch.testing.assert_close(model(dense, sparse), model.output(features).squeeze(1))


def test_cin_against_loops(vectors: Tensor) -> None:
    torch.manual_seed(0)
    maps = (3, 5, 2)
    cin = CompressedInteraction(6, maps).double()
    layer, pooled = vectors, []
    for weight, width in zip(cin.weights, maps, strict=True):
        cube = weight.reshape(width, layer.shape[1], 6)
        following = torch.zeros(3, width, 4, dtype=torch.float64)
        for h in range(width):
            for i in range(layer.shape[1]):
                for j in range(6):
                    following[:, h] = following[:, h] + cube[h, i, j] * layer[:, i] * vectors[:, j]
        layer = following
        pooled.append(layer.sum(2))
    torch.testing.assert_close(cin(vectors), torch.cat(pooled, dim=1))
    by_einsum = torch.einsum("hij,bid,bjd->bh", cin.weights[0].reshape(3, 6, 6), vectors, vectors)
    torch.testing.assert_close(cin(vectors)[:, :3], by_einsum)


def test_interacting_layer_against_loops(vectors: Tensor) -> None:
    torch.manual_seed(0)
    layer = InteractingLayer(4, 6, 2).double()
    expected = torch.empty(3, 6, 6, dtype=torch.float64)
    for b in range(3):
        for m in range(6):
            for head in range(2):
                part = slice(3 * head, 3 * head + 3)
                query = layer.query.weight[part] @ vectors[b, m]
                scores = [math.exp((query @ (layer.key.weight[part] @ vectors[b, k])).item()) for k in range(6)]
                mixed = sum(
                    score / sum(scores) * (layer.value.weight[part] @ vectors[b, k]) for k, score in enumerate(scores)
                )
                expected[b, m, part] = torch.relu(mixed + layer.residual.weight[part] @ vectors[b, m])
    torch.testing.assert_close(layer(vectors), expected)


def test_autoint_plus_adds_an_mlp() -> None:
    torch.manual_seed(0)
    model = AutoInt.small(deep=(8,)).eval()
    assert model.deep is not None
    dense, sparse = model.example_inputs(4)
    fields = torch.cat([model.dense_embeddings(dense), model.sparse_embeddings(sparse)], dim=1)
    together, mlp = model(dense, sparse), model.deep(fields.flatten(1)).squeeze(1)
    model.deep = None
    torch.testing.assert_close(together, model(dense, sparse) + mlp)


def test_crosses_are_one_weight_a_pair() -> None:
    crossed = CrossProducts([3, 4, 5], [(0, 1), (2, 1)], buckets=15)
    assert crossed.buckets == (12, 15)
    first, second = (table.get_parameter("weight")[:, 0] for table in crossed.weights.tables)
    seen = set()
    for a in range(3):
        for b in range(4):
            for c in range(5):
                out = crossed(torch.tensor([[a, b, c]]))
                torch.testing.assert_close(out, (first[4 * a + b] + second[(4 * c + b) % 15])[None])
            seen.add(4 * a + b)
    assert seen == set(range(12))  # if the table is large enough, no two pairs share a weight


def test_wide_and_deep_add_up() -> None:
    torch.manual_seed(0)
    model = WideDeep.small().eval()
    assert model.crossed is not None
    dense, sparse = model.example_inputs(4)
    embedded = [table(sparse[:, field]) for field, table in enumerate(model.embeddings.tables)]
    deep = model.deep(torch.cat([dense, *embedded], dim=1)).squeeze(1)
    torch.testing.assert_close(model(dense, sparse), model.first_order(dense, sparse) + model.crossed(sparse) + deep)


def test_mmoe_mixes_experts_by_gate(make_model: Callable[[str], ZooModel]) -> None:
    model = make_model("mmoe")
    assert isinstance(model, MMoE)
    dense, sparse = model.example_inputs(4)
    embedded = [table(sparse[:, field]) for field, table in enumerate(model.embeddings.tables)]
    x = torch.cat([dense, *embedded], dim=1)
    for b in range(4):
        for task, (gate, tower) in enumerate(zip(model.gates, model.towers, strict=True)):
            weights = torch.softmax(gate.get_parameter("weight") @ x[b], dim=0)
            mixed = sum(weight * expert(x[b]) for weight, expert in zip(weights, model.experts, strict=True))
            torch.testing.assert_close(model(dense, sparse)[b, task], tower(mixed)[0])
