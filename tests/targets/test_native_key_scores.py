"""Target attention with keys along the lanes: every level against plain torch, shared keys, threads, special numbers, where it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    partition,
    program_of,
    relaxed,
    seeds,
)

from recfx.kernels.codes import Kind
from recfx.ops import attention, mlp
from recfx.runtime.flat import flat_function

pytestmark = needs_kernels

ACTIVATIONS = ("none", "relu", "gelu", "gelu-tanh", "silu", "sigmoid", "tanh", "prelu", "dice", "leaky-relu")
PARTS = [0, 1, 2, 4]


def unit(rng: torch.Generator, dim: int, widths: list[int], activations: list[str], bias: bool) -> tuple[Any, ...]:
    """State, layers and numbers of an activation unit over PARTS."""
    state: list[torch.Tensor] = []
    layers = []
    inputs = len(PARTS) * dim
    for width, activation in zip([*widths, 1], [*activations, "none"], strict=True):
        first = len(state)
        state += [torch.randn(width, inputs, generator=rng) / inputs**0.5]
        state += [torch.randn(width, generator=rng) for _ in range(4)]
        vectors = {
            "dice": {"slope": first + 2, "gate_scale": first + 3, "gate_shift": first + 4},
            "prelu": {"slope": first + 2},
        }
        layers.append(
            mlp.Layer(
                first, first + 1 if bias else -1, activation=activation, number=0.1, **vectors.get(activation, {})
            )
        )
        inputs = width
    return state, *mlp.encode(layers)


def attend(ints: list[int], numbers: list[float], parts: list[int] = PARTS, pool: bool = True) -> Callable[..., Any]:
    def run(query: torch.Tensor, keys: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        given = (None, list(params), ints, numbers, parts, False, 1.0, attention.NO_MASK, 0.0, pool)
        if query.dtype is torch.float64:
            return attention.reference(query, keys, *given)
        found: torch.Tensor = attention.target_attention(query, keys, *given)
        return found

    return run


def kinds(function: Callable[..., Any], inputs: list[torch.Tensor], state: list[torch.Tensor]) -> list[Kind]:
    made = partition(program_of(function, inputs, state), LEVELS[0])
    calls: list[Any] = [n.target for n in made.region.graph.nodes if n.op == "call_function"]
    return [step.kind for call in calls for step in call.plan.steps]


@relaxed
@given(st.data())
def test_every_level_is_as_close_to_float64_as_torch(data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    batch, length, dim = drawn(data, 2, 4), drawn(data, 9, 120), drawn(data, 1, 40)
    widths = data.draw(st.lists(st.integers(1, 70), min_size=0, max_size=4))
    activations = [data.draw(st.sampled_from(ACTIVATIONS)) for _ in widths]
    state, ints, numbers = unit(rng, dim, widths, activations, data.draw(st.booleans()))
    query = torch.randn(batch, dim, generator=rng)
    keys = torch.randn(1 if data.draw(st.booleans()) else batch, length, dim, generator=rng)
    function = attend(ints, numbers, pool=data.draw(st.booleans()))
    plain = function(query, keys, *state)
    exact = function(*(t.double() for t in (query, keys, *state)))
    for run in lower_everywhere(function, [query, keys], state):
        (found,) = run(query, keys)
        closer_than(found, plain, exact)


@pytest.mark.parametrize("length", [9, 15, 16, 17, 48, 49, 100])
def test_a_key_scores_the_same_wherever_it_stands(length: int) -> None:
    """Lanes, chunks and the padding of the last vector do not change a score."""
    rng = generator(length)
    state, ints, numbers = unit(rng, 24, [20, 7], ["dice", "sigmoid"], True)
    query, keys = torch.randn(2, 24, generator=rng), torch.randn(2, length, 24, generator=rng)
    order = torch.randperm(length, generator=rng)
    for run in lower_everywhere(attend(ints, numbers, pool=False), [query, keys], state):
        (plain,), (moved,) = run(query, keys), run(query, keys[:, order].contiguous())
        assert torch.equal(plain[:, order], moved)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_threads_change_nothing(rows: int) -> None:
    rng = generator(rows)
    state, ints, numbers = unit(rng, 64, [80, 40], ["dice", "dice"], True)
    query, keys = torch.randn(7, 64, generator=rng), torch.randn(7, 200, 64, generator=rng)
    batch = torch.export.Dim("batch", min=1, max=100)
    program = program_of(attend(ints, numbers), [query, keys], state, dynamic_shapes=(({0: batch}, {0: batch}),))
    run, threads = lower(program, LEVELS[0]), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(run(query[:rows], keys[:rows])[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_no_number_stays_with_its_key() -> None:
    state, ints, numbers = unit(generator(0), 8, [12], ["sigmoid"], True)
    query, keys = torch.ones(2, 8), torch.ones(2, 20, 8)
    keys[0, 3, 0], keys[1, 19, 7] = float("nan"), float("nan")
    for run in lower_everywhere(attend(ints, numbers, pool=False), [query, keys], state):
        (found,) = run(query, keys)
        assert found.isnan().nonzero().tolist() == [[0, 3], [1, 19]]


@pytest.mark.parametrize("length", [5, 20])
@pytest.mark.parametrize("pool", [False, True])
def test_several_queries_in_a_row_of_the_batch_stay_with_torch(length: int, pool: bool) -> None:
    """Two candidates a request, put one after another before the attention."""
    rng = generator(6)
    state, ints, numbers = unit(rng, 4, [6], ["relu"], True)
    inner = attend(ints, numbers, pool=pool)

    def both(query: torch.Tensor, keys: torch.Tensor, *params: torch.Tensor) -> torch.Tensor:
        return inner(query.reshape(-1, 4), keys.reshape(-1, length, 4), *params) * 2  # type: ignore[no-any-return]

    batch = torch.export.Dim("batch", min=1, max=100)
    query, keys = torch.randn(3, 2, 4, generator=rng), torch.randn(3, 2 * length, 4, generator=rng)
    program = program_of(both, [query, keys], state, dynamic_shapes=(({0: batch}, {0: batch}),))
    made = partition(program, LEVELS[0])
    assert "several queries" in str(list(made.refused.values()))
    for rows in (1, 3):
        (found,) = flat_function(made.region)(query[:rows], keys[:rows])
        torch.testing.assert_close(found, both(query[:rows], keys[:rows], *state))


def test_it_is_used_where_it_pays() -> None:
    rng = generator(1)
    state, ints, numbers = unit(rng, 16, [8], ["relu"], True)
    query = torch.randn(2, 16, generator=rng)
    assert Kind.KEY_SCORES in kinds(attend(ints, numbers), [query, torch.randn(2, 9, 16, generator=rng)], state)
    few = kinds(attend(ints, numbers), [query, torch.randn(2, 8, 16, generator=rng)], state)
    assert Kind.KEY_SCORES not in few  # half the lanes would be empty
    simple = [state[0][:, :32].contiguous(), *state[1:]]
    without = kinds(attend(ints, numbers, [0, 1]), [query, torch.randn(2, 50, 16, generator=rng)], simple)
    assert Kind.KEY_SCORES not in without  # without a product there is no matrix per query


@pytest.mark.parametrize(
    "layer",
    [
        {"norm": True},
        {"residual": 1},
        {"activation": "row-dice", "slope": 2, "gate_scale": 3, "gate_shift": 4, "number": 1e-3},
    ],
)
def test_layers_it_has_no_loop_for_take_the_other_way(layer: dict[str, Any]) -> None:
    rng = generator(2)
    weights = [
        torch.randn(6, 4 * 16, generator=rng),
        torch.randn(6, 6, generator=rng),
        torch.randn(1, 6, generator=rng),
    ]
    vectors = [torch.randn(6, generator=rng) for _ in range(3)]
    state = [weights[0], weights[1], *vectors, weights[2]]
    ints, numbers = mlp.encode([mlp.Layer(0, 2), mlp.Layer(1, **layer), mlp.Layer(5)])
    query, keys = torch.randn(2, 16, generator=rng), torch.randn(2, 30, 16, generator=rng)
    function = attend(ints, numbers)
    assert Kind.KEY_SCORES not in kinds(function, [query, keys], state)
    plain, exact = function(query, keys, *state), function(*(t.double() for t in (query, keys, *state)))
    for run in lower_everywhere(function, [query, keys], state):
        closer_than(run(query, keys)[0], plain, exact)
