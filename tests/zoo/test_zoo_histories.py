"""The models over histories against loops over one row's items, without the padding."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recfx.zoo import BST, DIEN, DIN, SASRec, TwoTower, ZooModel
from recfx.zoo.dien import AUGRU
from recfx.zoo.din import ActivationUnit

HISTORIES = torch.tensor([[3, 17, 40, 3, 9], [8, 2, 0, 0, 0], [0, 0, 0, 0, 0], [21, 0, 0, 0, 0]])
USERS = torch.tensor([0, 29, 4, 4])
ITEMS = torch.tensor([1, 2, 40, 21])
MakeModel = Callable[[str], ZooModel]


def _taken(row: int) -> Tensor:
    return HISTORIES[row][HISTORIES[row] != 0]


@pytest.mark.parametrize("softmax", [False, True])
def test_activation_unit_against_loops(softmax: bool, generator: torch.Generator) -> None:
    torch.manual_seed(0)
    unit = ActivationUnit(3, (6, 4), softmax=softmax).double().eval()
    query = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    keys = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]).bool()
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for b in range(4):
        weights, items = [], []
        for place in range(5):
            if mask[b, place]:
                q, k = query[b], keys[b, place]
                weights.append(unit.mlp(torch.cat([q, k, q - k, q * k]))[0])
                items.append(k)
        if softmax:
            weights = [weight.exp() / sum(other.exp() for other in weights) for weight in weights]
        for weight, k in zip(weights, items, strict=True):
            expected[b] = expected[b] + weight * k
    torch.testing.assert_close(unit(query, keys, mask), expected)


def test_din_ignores_where_the_padding_is(make_model: MakeModel) -> None:
    model = make_model("din")
    assert isinstance(model, DIN)
    expected = model(USERS, ITEMS, HISTORIES)
    torch.testing.assert_close(model(USERS, ITEMS, HISTORIES.flip(1)), expected)
    torch.testing.assert_close(model(USERS, ITEMS, F.pad(HISTORIES, (2, 3))), expected)


def test_augru_step_formula(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    cell = AUGRU(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    h = torch.randn(4, 2, dtype=torch.float64, generator=generator)
    a = torch.rand(4, 1, dtype=torch.float64, generator=generator)
    (w_r, w_u, w_c), (b_r, b_u, b_c) = cell.input.weight.split(2), cell.input.bias.split(2)
    u_r, u_u, u_c = cell.state.weight.split(2)
    for b in range(4):
        r = torch.sigmoid(w_r @ x[b] + u_r @ h[b] + b_r)
        u = a[b] * torch.sigmoid(w_u @ x[b] + u_u @ h[b] + b_u)
        c = torch.tanh(w_c @ x[b] + r * (u_c @ h[b]) + b_c)
        expected = (1 - u) * h[b] + u * c
        torch.testing.assert_close(cell.step(cell.input(x), a, h)[b], expected)


def test_augru_folds_its_step_and_skips_zero_attention(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    cell = AUGRU(3, 2).double()
    x = torch.randn(4, 5, 3, dtype=torch.float64, generator=generator)
    attention = torch.rand(4, 5, dtype=torch.float64, generator=generator)
    attention[:, 1] = 0
    attention[:, 4] = 0
    state = torch.zeros(4, 2, dtype=torch.float64)
    for place in (0, 2, 3):
        state = cell.step(cell.input(x[:, place]), attention[:, place, None], state)
    torch.testing.assert_close(cell(x, attention), state)


def test_dien_row_by_row(make_model: MakeModel) -> None:
    model = make_model("dien")
    assert isinstance(model, DIEN)
    logits = model(USERS, ITEMS, HISTORIES)
    for row in range(4):
        target = model.items(ITEMS[row])
        state = torch.zeros(1, 6)
        taken = _taken(row)
        if len(taken):
            interests = model.extractor(model.items(taken)[None])[0][0]
            scores = torch.stack([interest @ model.relevance.weight @ target for interest in interests])
            attention = scores.exp() / scores.exp().sum()
            for interest, weight in zip(interests, attention, strict=True):
                state = model.evolution.step(model.evolution.input(interest[None]), weight.reshape(1, 1), state)
        expected = model.mlp(torch.cat([model.users(USERS[row]), target, state[0]])[None])
        torch.testing.assert_close(logits[row], expected[0, 0])
    torch.testing.assert_close(model(USERS, ITEMS, F.pad(HISTORIES, (0, 4))), logits)


def test_dien_auxiliary_loss_by_hand(make_model: MakeModel) -> None:
    model = make_model("dien")
    assert isinstance(model, DIEN)
    negatives = 1 + (HISTORIES + 11) % 40
    losses = []
    for row in range(4):
        taken = _taken(row)
        if len(taken) < 2:
            continue
        interests = model.extractor(model.items(taken)[None])[0][0]
        for place in range(len(taken) - 1):
            clicked = model.next_item(torch.cat([interests[place], model.items(taken[place + 1])]))
            skipped = model.next_item(torch.cat([interests[place], model.items(negatives[row, place + 1])]))
            losses.append(-torch.sigmoid(clicked).log() - (1 - torch.sigmoid(skipped)).log())
    assert len(losses) == 5
    torch.testing.assert_close(model.auxiliary_loss(HISTORIES, negatives), torch.stack(losses).mean())
    assert model.auxiliary_loss(HISTORIES[2:], negatives[2:]) == 0


def test_bst_row_by_row(make_model: MakeModel) -> None:
    model = make_model("bst-two-layers")
    assert isinstance(model, BST)
    logits = model(USERS, ITEMS, HISTORIES)
    for row in range(4):
        sequence = torch.cat([_taken(row), ITEMS[row : row + 1]])
        since = torch.arange(len(sequence)).flip(0)
        x = torch.cat([model.items(sequence), model.positions(since)], dim=1)[None]
        everything = torch.ones(1, 1, len(sequence), dtype=torch.bool)
        for layer in model.layers:
            mixed = layer.attention(x, everything)
            x = F.layer_norm(x + mixed, x.shape[-1:], layer.attention_norm.weight, layer.attention_norm.bias)
            first, _, second = layer.feed_forward
            inner = second(F.leaky_relu(first(x)))
            x = F.layer_norm(x + inner, x.shape[-1:], layer.feed_forward_norm.weight, layer.feed_forward_norm.bias)
        slots = torch.zeros(6, x.shape[2])  # the history's positions, then the candidate's
        slots[: len(sequence) - 1] = x[0, :-1]
        slots[5] = x[0, -1]
        expected = model.mlp(torch.cat([model.users(USERS[row]), slots.flatten()])[None])
        torch.testing.assert_close(logits[row], expected[0, 0])


def test_sasrec_row_by_row(make_model: MakeModel) -> None:
    model = make_model("sasrec-one-head")
    assert isinstance(model, SASRec)
    candidates = torch.tensor([[1, 7], [2, 2], [40, 3], [21, 9]])
    scores = model(HISTORIES, candidates)
    for row in range(4):
        taken = _taken(row)
        if len(taken) == 0:
            assert torch.equal(scores[row], torch.zeros(2))
            continue
        x = model.items(taken) * math.sqrt(4) + model.positions.weight[: len(taken)]
        for block in model.blocks:
            normed = block.attention_norm(x)
            q, k, v = (getattr(block.attention, part)(normed) for part in ("query", "key", "value"))
            mixed = torch.empty_like(x)
            for place in range(len(taken)):
                weights = torch.stack([(q[place] @ k[earlier] / 2).exp() for earlier in range(place + 1)])
                mixed[place] = (weights / weights.sum()) @ v[: place + 1]
            x = x + mixed
            x = x + block.feed_forward(block.feed_forward_norm(x))
        state = model.norm(x[-1])
        expected = torch.stack([model.items.weight[item] @ state for item in candidates[row]])
        torch.testing.assert_close(scores[row], expected)


def test_sasrec_is_causal(make_model: MakeModel) -> None:
    model = make_model("sasrec")
    assert isinstance(model, SASRec)
    changed = HISTORIES.clone()
    changed[0, 3] = 33
    before, after = model.states(HISTORIES)[0], model.states(changed)[0]
    assert torch.equal(before[:3], after[:3])
    assert not torch.allclose(before[3:], after[3:])


def test_two_tower_is_the_smoothed_cosine(make_model: MakeModel) -> None:
    model = make_model("two-tower")
    assert isinstance(model, TwoTower)
    scores = model(USERS, ITEMS, HISTORIES)
    for row in range(4):
        taken = _taken(row)
        mean = model.history.weight[taken].mean(0) if len(taken) else torch.zeros(4)
        user = model.user_tower(torch.cat([model.users(USERS[row]), mean]))
        item = model.item_tower(model.items(ITEMS[row]))
        torch.testing.assert_close(scores[row], 10 * F.cosine_similarity(user, item, dim=0))
    norms = torch.cat([model.user_vectors(USERS, HISTORIES), model.item_vectors(ITEMS)]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(8))


@pytest.mark.parametrize("name", ["din", "dien", "bst", "two-tower", "sasrec"])
def test_training_leaves_the_padding_row_at_zero(name: str, make_model: MakeModel) -> None:
    model = make_model(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(*model.example_inputs(32)).sum().backward()
    optimizer.step()
    padded = [m for m in model.modules() if getattr(m, "padding_idx", None) == 0]
    assert padded
    for table in padded:
        assert torch.equal(table.weight[0], torch.zeros_like(table.weight[0]))
