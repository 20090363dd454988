"""The dialect: the references against plain torch, and the codecs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from recfx.ops import cross, interaction, lookup, mlp
from recfx.ops.lookup import Feature


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_features_survive_their_codec() -> None:
    features = [
        Feature(1, 2, 3, 4),
        Feature(5, 6, 7, 8, -1, lookup.JAGGED, 9, 10, 11, False, 12, lookup.MEAN, 13, 14, 4),
    ]
    assert lookup.decode(lookup.encode(features)) == features


def test_layers_survive_their_codec() -> None:
    layers = [mlp.Layer(0), mlp.Layer(1, 2, 3, "dice", 4, 5, 6, 7, 8, True, 0, 1e-3, 0.25, 0.5)]
    assert mlp.decode(*mlp.encode(layers)) == layers


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_jagged_lookup_is_an_embedding_bag(data: st.DataObject) -> None:
    rng = generator(data.draw(st.integers(0, 2**32)))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)))
    rows, dim = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    mode = data.draw(st.sampled_from(["sum", "mean"]))
    weighted = mode == "sum" and data.draw(st.booleans())
    padding = data.draw(st.sampled_from([None, 0]))
    last = data.draw(st.booleans())
    ids = torch.randint(0, rows, (int(lengths.sum()),), generator=rng)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    offsets = offsets if last else offsets[:-1]
    table = torch.randn(rows, dim, generator=rng)
    factors = torch.rand(ids.shape, generator=rng) if weighted else None
    expected = functional.embedding_bag(
        ids, table, offsets, mode=mode, per_sample_weights=factors, include_last_offset=last, padding_idx=padding
    )
    feature = Feature(
        0, 0, dim, 0, length=lookup.JAGGED, offsets=0, last=last, weights=0 if weighted else -1,
        pooling=lookup.MEAN if mode == "mean" else lookup.SUM, padding=-1 if padding is None else padding,
    )  # fmt: skip
    weights = [factors] if factors is not None else []
    found = lookup.grouped_lookup([table], [ids], [offsets], weights, [], lookup.encode([feature]), [], dim)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bad", [-1, 7])
def test_an_id_outside_its_table_is_refused(bad: int) -> None:
    with pytest.raises(IndexError, match=r"\[0, 7\)"):
        lookup.grouped_lookup(
            [torch.randn(7, 2)], [torch.tensor([[bad]])], [], [], [], lookup.encode([Feature(0, 0, 2, 0)]), [], 2
        )


@pytest.mark.parametrize("offsets", [[0, 3, 1], [0, 9], [-1, 2], [1, 2]])
def test_offsets_outside_their_ids_are_refused(offsets: list[int]) -> None:
    feature = Feature(0, 0, 2, 0, length=lookup.JAGGED, offsets=0)
    with pytest.raises(IndexError, match="offsets"):
        lookup.grouped_lookup(
            [torch.randn(7, 2)],
            [torch.tensor([1, 2, 3])],
            [torch.tensor(offsets)],
            [],
            [],
            lookup.encode([feature]),
            [],
            2,
        )


def test_a_chain_of_two_layers_with_norm_and_residual() -> None:
    rng = generator(1)
    x = torch.randn(3, 4, generator=rng)
    w1, w2 = torch.randn(4, 4, generator=rng), torch.randn(4, 4, generator=rng)
    b, g, beta = (torch.randn(4, generator=rng) for _ in range(3))
    layers = [mlp.Layer(0, 2, activation="gelu"), mlp.Layer(1, norm_weight=3, norm_bias=4, norm=True, residual=0)]
    first = functional.gelu(functional.linear(x, w1, b))
    expected = functional.layer_norm(functional.linear(first, w2), (4,), g, beta) + x
    assert torch.equal(mlp.mlp(x, [w1, w2, b, g, beta], *mlp.encode(layers)), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40), st.booleans())
def test_an_int8_layer_stays_within_its_rounding(seed: int, rows: int, width: int, positive: bool) -> None:
    rng = generator(seed)
    x = torch.randn(rows, width, generator=rng)
    x = x.abs() if positive else x
    codes = torch.randint(-127, 128, (6, width), generator=rng).to(torch.int8)
    scale = torch.rand(6, generator=rng) + 0.1
    found = mlp.mlp(x, [codes, scale], *mlp.encode([mlp.Layer(0, scale=1)]))
    weight = codes.float() * scale[:, None]
    step = x.abs().amax(1, keepdim=True) / (255 if positive else 127)
    bound = 0.5 * step * weight.abs().sum(1) * 1.001 + 1e-4
    assert bool(((found - x @ weight.T).abs() <= bound).all())


@pytest.mark.parametrize("upper", [False, True])
def test_dots_come_in_the_order_of_the_triangle(upper: bool) -> None:
    x = torch.randn(2, 3, 5, generator=generator(2))
    pairs = [(0, 1), (0, 2), (1, 2)] if upper else [(1, 0), (2, 0), (2, 1)]
    expected = torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in pairs], 1)
    torch.testing.assert_close(interaction.dot_interaction(x, None, False, upper), expected)


def test_fm_is_the_sum_over_pairs() -> None:
    x = torch.randn(2, 4, 3, generator=generator(3))
    expected = sum((x[:, i] * x[:, j]).sum(1) for i in range(4) for j in range(i))
    torch.testing.assert_close(interaction.fm(x, True)[:, 0], expected)


def test_cross_layers_of_every_kind() -> None:
    rng = generator(4)
    x0 = torch.randn(2, 3, generator=rng)
    w, full, b, u, v = (torch.randn(s, generator=rng) for s in [(3,), (3, 3), (3,), (3, 2), (2, 3)])
    one = x0 * (x0 @ w)[:, None] + b + x0
    two = x0 * (one @ full.T + b) + one
    three = x0 * (two @ v.T @ u.T + b) + two
    layers = [
        cross.CrossLayer(cross.VECTOR, 0, 2),
        cross.CrossLayer(cross.FULL, 1, 2),
        cross.CrossLayer(cross.LOW_RANK, 3, 2, 4),
    ]
    torch.testing.assert_close(cross.cross(x0, x0, [w, full, b, u, v], cross.encode(layers)), three)
