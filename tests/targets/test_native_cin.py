"""The kernel of interaction networks at every instruction-set level against its reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import (
    LEVELS,
    closer_than,
    drawn,
    generator,
    lower,
    lower_everywhere,
    needs_kernels,
    program_of,
    relaxed,
)
from native_kit import seeds as seeds

from recfx.ops import cin, mlp

pytestmark = needs_kernels


def layer(triangle: bool, held: mlp.Layer | None = None) -> Callable[..., torch.Tensor]:
    ints, numbers = mlp.encode([held or mlp.Layer(0)])
    return lambda x0, x, *params: torch.ops.recfx.cin(x0, x, list(params), ints, numbers, triangle)


def of_itself(held: mlp.Layer | None = None) -> Callable[..., torch.Tensor]:
    function = layer(True, held)
    return lambda x, *params: function(x, x, *params)


def both(rng: torch.Generator, rows: int, fields: int, maps: int, dim: int) -> list[torch.Tensor]:
    return [torch.randn(rows, n, dim, generator=rng) for n in (fields, maps)]


@relaxed
@given(st.data())
def test_float_layers(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    rows, fields, dim, outputs = (drawn(data, 1, most) for most in (6, 40, 20, 70))
    triangle = data.draw(st.booleans())
    maps = fields if triangle else drawn(data, 1, 60)
    inputs = both(rng, rows + 1, fields, maps, dim)
    products = cin.product_count(maps, fields, triangle)
    state = [torch.randn(outputs, products, generator=rng) / products**0.5, torch.randn(outputs, generator=rng)]
    activation = data.draw(st.sampled_from(["none", "relu", "sigmoid", "prelu", "leaky-relu"]))
    function = layer(
        triangle, mlp.Layer(0, 1, activation=activation, slope=1 if activation == "prelu" else -1, number=0.1)
    )
    plain, exact = function(*inputs, *state), function(*(t.double() for t in [*inputs, *state]))
    for run in lower_everywhere(function, inputs, state):
        (found,), (again,) = run(*inputs), run(*inputs)
        closer_than(found, plain, exact)
        torch.testing.assert_close(again, found, rtol=0, atol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("fields", "maps"), [(39, 70), (70, 39), (2049, 1), (1, 2100)])
def test_sums_that_are_split_into_slabs(level: str, fields: int, maps: int) -> None:
    rng = generator(7)
    inputs = both(rng, 5, fields, maps, 4)
    state = [torch.randn(40, fields * maps, generator=rng) / (fields * maps) ** 0.5]
    found = lower(program_of(layer(False), inputs, state), level)(*inputs)[0]
    exact = layer(False)(*(t.double() for t in [*inputs, *state]))
    closer_than(found, layer(False)(*inputs, *state), exact)


@relaxed
@given(st.data())
def test_weights_in_fewer_bits_round_as_the_reference(data: st.DataObject) -> None:
    """Products are whole numbers or sums of few, so that neither bfloat16 nor int8 leaves a choice in the rounding."""
    rng = generator(data.draw(seeds))
    fields, maps, dim, outputs = (drawn(data, 1, most) for most in (40, 20, 12, 40))
    wide = data.draw(st.booleans())
    inputs = [
        torch.randint(-1 if wide else 0, 2, t.shape, generator=rng).float() for t in both(rng, 3, fields, maps, dim)
    ]
    codes = torch.randint(-127, 128, (outputs, fields * maps), generator=rng)
    scale = torch.rand(outputs, generator=rng)
    near = {"rtol": 1e-5, "atol": 1e-3}
    for held, state in (
        (mlp.Layer(0, 2, 1), [codes.to(torch.int8), scale, scale]),
        (mlp.Layer(0, 2, 1, input_scale=1.0), [codes.to(torch.int8), scale, scale]),
        (mlp.Layer(0, 1), [codes.bfloat16(), scale]),
    ):
        expected = layer(False, held)(*inputs, *state)
        for run in lower_everywhere(layer(False, held), inputs, state):
            torch.testing.assert_close(run(*inputs)[0], expected, **near)


@relaxed
@given(st.data())
def test_int8_rows_have_the_range_of_their_products(data: st.DataObject) -> None:
    """The error is that of one rounding of each product to its row's scale."""
    rng = generator(data.draw(seeds))
    inputs = [t * data.draw(st.sampled_from([1e-25, 1.0, 1e12])) for t in both(rng, 4, 9, 12, 5)]
    inputs = [t.abs() if data.draw(st.booleans()) else t for t in inputs]
    state = [torch.randint(-127, 128, (33, 108), generator=rng).to(torch.int8), torch.rand(33, generator=rng)]
    exact = layer(False, mlp.Layer(0))(*(t.double() for t in [*inputs, state[0].double() * state[1][:, None]]))
    step = (inputs[0].double().abs().amax(1) * inputs[1].double().abs().amax(1))[:, None] / 127
    most = step * state[0].double().abs().sum(1)[:, None] * state[1].double()[:, None] * 0.501
    for run in lower_everywhere(layer(False, mlp.Layer(0, -1, 1)), inputs, state):
        assert bool(((run(*inputs)[0].double() - exact).abs() <= most + exact.abs() * 1e-5 + 1e-44).all())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("format_", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("triangle", [False, True])
def test_infinities_and_nan_stay_in_their_column(level: str, format_: torch.dtype, triangle: bool) -> None:
    rng = generator(3)
    inputs = [torch.randint(1, 3, (4, 7, 6), generator=rng).float() for _ in range(2)]
    inputs[0][0, 2, 1], inputs[1][1, 3, 2], inputs[0][2, 0, 3] = float("nan"), float("inf"), float("-inf")
    inputs[0][3, 1, 4] = inputs[1][3, 1, 4] = 3e38
    codes = torch.randint(1, 100, (20, cin.product_count(7, 7, triangle)), generator=rng)
    integers = format_ is torch.int8
    state = [codes.to(format_), torch.ones(20)] if integers else [codes.to(format_)]
    function = layer(triangle, mlp.Layer(0, -1, 1 if integers else -1))
    found = lower(program_of(function, inputs, state), level)(*inputs)[0]
    torch.testing.assert_close(found, function(*inputs, *state), rtol=1e-2, atol=1e-2, equal_nan=True)
    assert bool(found[:, :, 0].isfinite().all())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("format_", [torch.float32, torch.int8])
def test_threads_give_the_same_bits(threads: int, rows: int, format_: torch.dtype) -> None:
    rng = generator(5)
    inputs = both(rng, 40, 30, 90, 8)
    codes = torch.randint(-127, 128, (70, 2700), generator=rng).to(format_)
    function = layer(False, mlp.Layer(0, -1, 1, activation="relu"))
    run = lower(program_of(function, inputs, [codes, torch.rand(70, generator=rng)]))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run(*inputs)[0][:rows]
        torch.set_num_threads(threads)
        torch.testing.assert_close(run(*(t[:rows] for t in inputs))[0], expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


def test_maps_and_fields_are_read_in_place() -> None:
    """Fields with gaps between their rows, transposed fields, and the result of the layer before."""
    rng = generator(11)
    x = torch.randn(3, 6, 5, generator=rng)
    state = [torch.randn(4, 21, generator=rng), torch.randn(3, 24, generator=rng)]

    def network(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        fields = x[:, :, 1:].transpose(1, 2).contiguous().transpose(1, 2)
        maps = of_itself()(x[:, :, 1:], first)
        return layer(False)(fields, maps, second).sum(2)

    for run in lower_everywhere(network, [x], state):
        torch.testing.assert_close(run(x)[0], network(x, *state), rtol=1e-4, atol=1e-4)


def test_fields_that_all_rows_share() -> None:
    rng = generator(13)
    x, fields = torch.randn(3, 6, 5, generator=rng), torch.randn(1, 4, 5, generator=rng)
    weight = torch.randn(7, 24, generator=rng)

    def network(x: torch.Tensor, fields: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return layer(False)(fields.expand(x.shape[0], 4, 5), x, weight)

    for run in lower_everywhere(network, [x], [fields, weight]):
        torch.testing.assert_close(run(x)[0], network(x, fields, weight), rtol=1e-4, atol=1e-4)
