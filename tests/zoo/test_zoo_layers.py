"""The shared modules against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recfx.zoo.errors import ZooError
from recfx.zoo.layers import (
    MLP,
    DenseEmbeddings,
    Dice,
    FieldEmbeddings,
    FirstOrder,
    ItemEmbeddings,
    SelfAttention,
    activation_module,
    masked_softmax,
)


def test_field_embeddings_take_a_row_of_each_table() -> None:
    embeddings = FieldEmbeddings([3, 5], 2)
    sparse = torch.tensor([[2, 4], [0, 1]])
    out = embeddings(sparse)
    for row in range(2):
        for field in range(2):
            table = embeddings.tables[field].get_parameter("weight")
            assert torch.equal(out[row, field], table[sparse[row, field]])


def test_dense_embeddings_scale_a_vector_each() -> None:
    embeddings = DenseEmbeddings(2, 3)
    out = embeddings(torch.tensor([[2.0, -1.0]]))
    assert torch.equal(out[0, 0], 2 * embeddings.weight[0])
    assert torch.equal(out[0, 1], -embeddings.weight[1])


def test_first_order_sums_weights() -> None:
    model = FirstOrder([3, 5], 2)
    out = model(torch.tensor([[0.5, 3.0]]), torch.tensor([[1, 4]]))
    tables = [table.get_parameter("weight") for table in model.sparse.tables]
    dense = model.dense.weight[0]
    expected = tables[0][1, 0] + tables[1][4, 0] + 0.5 * dense[0] + 3 * dense[1] + model.dense.bias[0]
    torch.testing.assert_close(out, expected[None])


def _dice(x: float, mean: float, variance: float, alpha: float) -> float:
    p = 1 / (1 + math.exp(-(x - mean) / math.sqrt(variance + 1e-8)))
    return p * x + (1 - p) * alpha * x


def test_dice_uses_running_moments_in_evaluation() -> None:
    dice = Dice(2).double().eval()
    assert dice.norm.running_mean is not None
    assert dice.norm.running_var is not None
    dice.norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    dice.norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.25, -0.5]))
    x = torch.tensor([[[0.3, -1.0], [5.0, 2.0]], [[-4.0, -2.5], [1.0, 0.0]]], dtype=torch.float64)
    expected = torch.tensor(
        [[[_dice(a, 1, 4, 0.25), _dice(b, -2, 0.25, -0.5)] for a, b in row] for row in x.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(dice(x), expected)


def test_dice_uses_the_moments_of_the_batch_in_training() -> None:
    dice = Dice(1).double().train()
    x = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    expected = torch.tensor([[_dice(value, 3, 14 / 3, 0.0)] for value in (1.0, 2.0, 6.0)], dtype=torch.float64)
    torch.testing.assert_close(dice(x), expected)


def test_masked_softmax_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 3.0], [-1e30, 5.0, 1e38]])
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    e = math.exp(1)
    expected = torch.tensor([[1 / (1 + e), e / (1 + e), 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(masked_softmax(scores, mask), expected)


def test_mlp_layers_in_order() -> None:
    kinds = [type(layer) for layer in MLP(3, [4, 5], 1, dropout=0.1, batch_norm=True)]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert kinds == [*hidden, *hidden, nn.Linear]
    empty = MLP(3, [])
    x = torch.ones(2, 3)
    assert (empty.out_features, len(empty)) == (3, 0)
    assert torch.equal(empty(x), x)


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(ZooError, match="unknown activation 'swoosh'") as caught:
        activation_module("swoosh", 3)
    assert "relu" in (caught.value.hint or "")


def test_items_embed_id_and_category() -> None:
    categories = torch.tensor([0, 2, 1, 2])
    items = ItemEmbeddings(3, 2, categories)
    out = items(torch.tensor([[1, 3, 0]]))[0]
    item, category = items.item.weight, items.category.weight
    assert torch.equal(out[0], torch.cat([item[1], category[2]]))
    assert torch.equal(out[1], torch.cat([item[3], category[2]]))
    assert torch.equal(out[2], torch.zeros(4))
    assert categories is not items.category_of  # the caller may change the original afterwards


def test_numbered_categories_are_dealt_in_turn() -> None:
    items = ItemEmbeddings(5, 2, 2)
    assert items.category_of is not None
    assert items.category_of.tolist() == [0, 1, 2, 1, 2, 1]
    assert ItemEmbeddings(5, 2).category_of is None


@pytest.mark.parametrize("heads", [1, 2])
def test_self_attention_against_loops(heads: int, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(4, heads).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    mask = torch.rand(3, 5, 5, generator=generator) < 0.6
    mask[0, 2] = False  # a row whose mask hides all
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    width = 4 // heads
    mixed = torch.zeros_like(x)
    for b in range(3):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for row in range(5):
                seen = [column for column in range(5) if mask[b, row, column]]
                if not seen:
                    continue
                scores = torch.stack([query[b, row, part] @ key[b, column, part] / math.sqrt(width) for column in seen])
                weights = scores.exp() / scores.exp().sum()
                mixed[b, row, part] = sum(w * value[b, c, part] for w, c in zip(weights, seen, strict=True))
    torch.testing.assert_close(attention(x, mask), attention.output(mixed))
