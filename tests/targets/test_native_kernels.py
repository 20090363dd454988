"""Every kernel at every instruction-set level against its reference in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import closer_than, drawn, generator, lower_everywhere, near, needs_kernels, relaxed, seeds
from torch.nn import functional

from recfx.ops import attention, cross, interaction, mlp

pytestmark = needs_kernels


def check(function: Callable[..., Any], inputs: list[torch.Tensor], state: list[torch.Tensor]) -> None:
    """At every level a kernel is as near to float64 as torch within a factor, and a second call gives the same bits, see `near`."""
    plain = function(*inputs, *state)
    exact = function(*(t.double() if t.is_floating_point() else t for t in [*inputs, *state]))
    for run in lower_everywhere(function, inputs, state):
        (found,), (again,) = run(*inputs), run(*inputs)
        assert found.shape == plain.shape
        closer_than(found, plain, exact)
        torch.testing.assert_close(again, found, rtol=0, atol=0, equal_nan=True)


def chain(layers: list[mlp.Layer]) -> Callable[..., torch.Tensor]:
    ints, numbers = mlp.encode(layers)
    return lambda x, *params: torch.ops.recfx.mlp(x, list(params), ints, numbers)


@relaxed
@given(st.data())
def test_float_layers(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    rows, k, n = drawn(data, 2, 40), drawn(data, 1, 70), drawn(data, 1, 70)
    x, w, b = torch.randn(rows, k, generator=rng), torch.randn(n, k, generator=rng), torch.randn(n, generator=rng)
    activation = data.draw(
        st.sampled_from(["none", "relu", "gelu", "gelu-tanh", "silu", "sigmoid", "tanh", "leaky-relu"])
    )
    bias = data.draw(st.booleans())
    check(chain([mlp.Layer(0, 1 if bias else -1, activation=activation, number=0.1)]), [x], [w, b])


@relaxed
@given(st.data())
def test_a_stack_with_norms_and_residuals(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    rows, width = drawn(data, 2, 20), drawn(data, 2, 40)
    x = torch.randn(rows, width, generator=rng)
    state = [torch.randn(width, width, generator=rng) / width**0.5 for _ in range(2)]
    state += [torch.rand(width, generator=rng) + 0.5 for _ in range(4)]
    layers = [
        mlp.Layer(0, 2, activation="prelu", slope=3),
        mlp.Layer(1, 2, activation="dice", slope=3, gate_scale=4, gate_shift=5, residual=0),
        mlp.Layer(0, norm=True, norm_weight=2, norm_bias=3, activation="relu", residual=1),
    ]
    check(chain(layers), [x], state)


@relaxed
@given(st.data())
def test_dice_over_rows(data: st.DataObject) -> None:
    """Alone, behind a norm, with a residual; on rows that fill whole vectors and rows that do not."""
    rng = generator(data.draw(seeds))
    rows, width = drawn(data, 2, 20), drawn(data, 2, 40)
    x = torch.randn(rows, width, generator=rng)
    state = [torch.randn(width, width, generator=rng) / width**0.5 for _ in range(2)]
    state += [torch.randn(width, generator=rng) for _ in range(4)]
    dice: dict[str, Any] = {"activation": "row-dice", "slope": 3, "gate_scale": 4, "gate_shift": 5, "number": 1e-3}
    layers = [
        mlp.Layer(0, 2, **dice),
        mlp.Layer(1, 2, residual=0, **dice),
        mlp.Layer(0, norm=True, norm_weight=2, norm_bias=3, residual=1, **dice),
    ]
    check(chain(layers), [x], state)


@relaxed
@given(st.data())
def test_bfloat16_layers(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    rows, k, n = drawn(data, 2, 40), drawn(data, 1, 70), drawn(data, 1, 70)
    x, w = torch.randn(rows, k, generator=rng), torch.randn(n, k, generator=rng).bfloat16()
    function = chain([mlp.Layer(0)])
    near(function, [x], [w], 1e-5, 1e-5 * k**0.5)


def _off_ties(x: torch.Tensor, input_scale: float) -> torch.Tensor:
    """`x` [M, K] without numbers halfway between two codes, where the last bit of a quotient decides."""
    levels = torch.where(x.amin(1, keepdim=True) < 0, 127.0, 255.0)
    place = x / (input_scale or x.abs().amax(1, keepdim=True).clamp(min=1e-6) / levels)
    return torch.where((place - place.floor() - 0.5).abs() < 1e-3, 0.0, x)


@relaxed
@given(st.data())
def test_int8_layers_are_exact_sums(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    rows, k, n = drawn(data, 2, 40), drawn(data, 1, 150), drawn(data, 1, 70)
    x = torch.randn(rows, k, generator=rng)
    x = x.relu() if data.draw(st.booleans()) else x
    input_scale = data.draw(st.sampled_from([0.0, 0.02]))
    x = _off_ties(x, input_scale)
    w = torch.randint(-127, 128, (n, k), generator=rng).to(torch.int8)
    scale, b = torch.rand(n, generator=rng), torch.randn(n, generator=rng)
    function = chain([mlp.Layer(0, 2, 1, input_scale=input_scale)])
    near(function, [x], [w, scale, b], 1e-5, 1e-3)


@relaxed
@given(st.data())
def test_factors_of_the_columns_of_int8_layers(data: st.DataObject) -> None:
    """The columns of a row are multiplied before they are quantised, with the row's own scale and with a calibrated one."""
    rng = generator(data.draw(seeds))
    rows, k, n = drawn(data, 2, 40), drawn(data, 1, 150), drawn(data, 1, 70)
    factor = torch.exp2(-torch.randint(0, 12, (k,), generator=rng).float())
    x = torch.randn(rows, k, generator=rng)
    x = x.relu() if data.draw(st.booleans()) else x
    input_scale = data.draw(st.sampled_from([0.0, 0.02]))
    x = _off_ties(x, input_scale) / factor
    w = torch.randint(-127, 128, (n, k), generator=rng).to(torch.int8)
    scale, b = torch.rand(n, generator=rng), torch.randn(n, generator=rng)
    plain = chain([mlp.Layer(0, 2, 1, input_scale=input_scale)])
    function = chain([mlp.Layer(0, 2, 1, input_scale=input_scale, factor=3)])
    assert torch.equal(function(x, w, scale, b, factor), plain(x * factor, w, scale, b))
    near(function, [x], [w, scale, b, factor], 1e-5, 1e-3)


def test_int8_rows_of_zeros_stay_zero() -> None:
    x, w, scale = torch.zeros(3, 9), torch.ones(4, 9, dtype=torch.int8), torch.ones(4)
    near(chain([mlp.Layer(0, -1, 1)]), [x], [w, scale], 0, 0)


@relaxed
@given(st.data())
def test_interactions(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, features, dim = drawn(data, 2, 5), drawn(data, 2, 40), drawn(data, 1, 40)
    x, prefix = torch.randn(batch, features, dim, generator=rng), torch.randn(batch, 3, generator=rng)
    own, upper, front = (data.draw(st.booleans()) for _ in range(3))

    def dots(x: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        held = prefix if front else None
        if x.dtype is torch.float64:
            return interaction.dot_reference(x, held, own, upper)
        return torch.ops.recfx.dot_interaction(x, held, own, upper)

    check(dots, [x, prefix], [])
    reduce = data.draw(st.booleans())
    check(lambda x: torch.ops.recfx.fm(x, reduce), [x], [])


@relaxed
@given(st.data())
def test_cross_layers(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, dim, rank = drawn(data, 2, 9), drawn(data, 1, 40), drawn(data, 1, 8)
    x = torch.randn(batch, dim, generator=rng)
    shapes = [(dim,), (dim, dim), (dim,), (dim, rank), (rank, dim)]
    state = [torch.randn(s, generator=rng) / s[-1] ** 0.5 for s in shapes]
    kinds = data.draw(st.lists(st.sampled_from([cross.VECTOR, cross.FULL, cross.LOW_RANK]), min_size=1, max_size=3))
    made = {
        cross.VECTOR: cross.CrossLayer(cross.VECTOR, 0, 2),
        cross.FULL: cross.CrossLayer(cross.FULL, 1, 2),
        cross.LOW_RANK: cross.CrossLayer(cross.LOW_RANK, 3, -1, 4),
    }
    layers = cross.encode([made[kind] for kind in kinds])
    check(lambda x, *params: torch.ops.recfx.cross(x, x, list(params), layers), [x], state)


@relaxed
@given(st.data())
def test_cross_layers_of_few_bits(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, dim, rank = drawn(data, 2, 9), drawn(data, 1, 70), drawn(data, 1, 8)
    integers = data.draw(st.booleans())
    x = _off_ties(torch.randn(batch, dim, generator=rng), 0.0)
    shapes = [(dim, dim), (dim, rank), (rank, dim)]
    if integers:
        matrices = [torch.randint(-127, 128, s, generator=rng).to(torch.int8) for s in shapes]
    else:
        matrices = [torch.randn(s, generator=rng).bfloat16() for s in shapes]
    scales = [torch.rand(n, generator=rng) / 1000 for n in (dim, dim, rank)]
    state = [*matrices, torch.randn(dim, generator=rng), *(scales if integers else [])]
    at = (4, 5, 6) if integers else (-1, -1, -1)
    full = cross.CrossLayer(cross.FULL, 0, 3, scale=at[0])
    low = cross.CrossLayer(cross.LOW_RANK, 1, 3, 2, scale=at[1], inner_scale=at[2])
    # One layer only: the input of a second may lie halfway between two codes.
    layers = cross.encode([full if integers else data.draw(st.sampled_from([full, low]))])
    near(lambda x, *params: torch.ops.recfx.cross(x, x, list(params), layers), [x], state, 1e-4, 1e-3)


@relaxed
@given(st.data())
def test_attention(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, heads, length, dim = drawn(data, 2, 4), drawn(data, 1, 3), drawn(data, 2, 20), drawn(data, 2, 20)
    x = torch.randn(batch, length, heads, dim, generator=rng)
    causal, masked = data.draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    mask = torch.rand(batch, 1, length, length, generator=rng) < 0.7
    mask[..., 0] = True

    def attend(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = x.transpose(1, 2)
        held = mask if masked else None
        return functional.scaled_dot_product_attention(h, h * 0.5, h + 1, attn_mask=held, is_causal=causal)

    check(attend, [x, mask], [])


@pytest.mark.parametrize(
    ("k", "n"), [(1, 1), (3, 17), (15, 16), (16, 15), (16, 16), (17, 16), (16, 17), (33, 50), (50, 33), (64, 4)]
)
def test_products_by_transposed_matrices(k: int, n: int) -> None:
    """Whole numbers, so that every level gives torch's bits; widths around those of the tiles, rows apart and adjacent."""
    rng = generator(k * n)
    a, b = (torch.randint(-9, 9, (3, rows, k), generator=rng).float() for rows in (5, n))
    wide = torch.randint(-9, 9, (3, n, k + 7), generator=rng).float()
    for run in lower_everywhere(lambda a, b, wide: (a @ b.mT, a @ wide[..., 3 : 3 + k].mT), [a, b, wide]):
        adjacent, apart = run(a, b, wide)
        assert torch.equal(adjacent, a @ b.mT)
        assert torch.equal(apart, a @ wide[..., 3 : 3 + k].mT)


@pytest.mark.parametrize("rows", [5, 6, 7, 12, 13, 14, 15, 27, 28, 29, 65])
def test_any_number_of_rows(rows: int) -> None:
    """Rows around whole tiles; with 4096 columns also around the chunks of rows that are converted at once. Whole numbers, see above."""
    rng = generator(rows)
    for k, n in ((3, 33), (4096, 40)):
        x, w = (
            torch.randint(-3, 4, (rows, k), generator=rng).float(),
            torch.randint(-3, 4, (n, k), generator=rng).float(),
        )
        for run in lower_everywhere(functional.linear, [x], [w]):
            assert torch.equal(run(x)[0], x @ w.mT)


@pytest.mark.parametrize("reduce", [False, True])
def test_one_field_has_no_pairs(reduce: bool) -> None:
    """Exact zeros, as of torch; NaN for numbers whose square is infinite."""
    x = torch.randn(40, 1, 19, generator=generator(0))
    x[1, 0, 3], x[2, 0, 17], x[3, 0, 4] = 1e30, float("-inf"), float("nan")
    for run in lower_everywhere(lambda x: torch.ops.recfx.fm(x, reduce), [x]):
        torch.testing.assert_close(run(x)[0], torch.ops.recfx.fm(x, reduce), rtol=0, atol=0, equal_nan=True)


@relaxed
@given(st.data())
def test_target_attention(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, length, dim, hidden = drawn(data, 2, 5), drawn(data, 2, 70), drawn(data, 1, 20), drawn(data, 1, 20)
    parts = data.draw(st.lists(st.integers(0, len(attention.PARTS) - 1), min_size=1, max_size=5))
    softmax, pool = data.draw(st.booleans()), data.draw(st.booleans())
    masking, scale = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([1.0, 0.5]))
    query, keys = torch.randn(batch, dim, generator=rng), torch.randn(batch, length, dim, generator=rng)
    mask = torch.rand(batch, length, generator=rng) < 0.6
    state = [torch.randn(s, generator=rng) for s in [(hidden, len(parts) * dim), (hidden,), (1, hidden)]]
    activation = data.draw(st.sampled_from(["sigmoid", "relu"]))
    ints, numbers = mlp.encode([mlp.Layer(0, 1, activation=activation), mlp.Layer(2)])

    def attend(query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        given = (list(params), ints, numbers, parts, softmax, scale, masking, -7.0, pool)
        if query.dtype is torch.float64:
            return attention.reference(query, keys, mask, *given)
        return attention.target_attention(query, keys, mask, *given)

    check(attend, [query, keys, mask], state)


@relaxed
@given(st.data())
def test_products_softmax_and_reductions(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, m, k, n = drawn(data, 2, 4), drawn(data, 1, 20), drawn(data, 1, 40), drawn(data, 1, 40)
    a, b = torch.randn(batch, m, k, generator=rng), torch.randn(batch, n, k, generator=rng)
    check(lambda a, b: torch.bmm(a, b.transpose(1, 2)), [a, b], [])
    check(lambda a: a.softmax(-1), [a], [])
    dim = data.draw(st.sampled_from([1, 2, (1, 2)]))
    keep = data.draw(st.booleans())
    check(lambda a: a.sum(dim, keepdim=keep), [a], [])
    check(lambda a: a.mean(dim, keepdim=keep), [a], [])
    check(lambda a: a.amax(dim, keepdim=keep), [a], [])


CHAINS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "broadcast": lambda a, b: (a.unsqueeze(1) * b.unsqueeze(2) + 1.5).flatten(1),
    "activations": lambda a, b: torch.sigmoid(a) + torch.tanh(b) * functional.silu(a) - functional.gelu(b),
    "powers": lambda a, b: (a * a + 1).sqrt() / (b.abs() + 1) ** 2 + torch.rsqrt(b * b + 1),
    "masks": lambda a, b: torch.where(a > 0, b, -a).masked_fill(b <= 0.5, 3.0) * (a != 0).float(),
    "bounds": lambda a, b: a.clamp(-0.5, 0.5) + b.clamp(min=0) + torch.maximum(a, b) - torch.minimum(a, b),
    "constants": lambda a, b: (2 - a) / 3 + 4 / (b * b + 1) - (a - 0.25) + a.exp() + functional.leaky_relu(b, 0.2),
    "concatenations": lambda a, b: torch.cat([a, b * 2, torch.stack([a, b], 1).flatten(1)], 1),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("width", [1, 5, 64, 130])
def test_pointwise_chains(name: str, width: int) -> None:
    rng = generator(width)
    check(CHAINS[name], [torch.randn(3, width, generator=rng), torch.randn(3, width, generator=rng)], [])


def test_special_numbers_go_through_activations() -> None:
    x = torch.tensor([[0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e30, -1e30, 100.0, -100.0]] * 2)
    for function in (torch.relu, torch.sigmoid, torch.tanh, torch.exp):
        near(lambda x, f=function: f(x), [x], [], 1e-5, 1e-6)
