"""Grouped lookups at every instruction-set level against their reference in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from native_kit import (
    LEVELS,
    drawn,
    generator,
    lower,
    lower_everywhere,
    near,
    needs_kernels,
    program_of,
    relaxed,
    seeds,
)

import recfx
from recfx.formats import row_bytes
from recfx.ir import Program
from recfx.ops import lookup

pytestmark = needs_kernels


def table(rng: torch.Generator, kind: int, rows: int, dim: int) -> torch.Tensor:
    """A table in one of the formats: 32, 16 (bfloat16), -16 (float16), or bits."""
    if kind in (32, 16, -16):
        dtype = {32: torch.float32, 16: torch.bfloat16, -16: torch.float16}[kind]
        return torch.randn(rows, dim, generator=rng).to(dtype)
    packed = torch.randint(0, 256, (rows, row_bytes(kind, dim)), generator=rng).to(torch.uint8)
    packed[:, -4:] = torch.randn(rows, 2, generator=rng).half().view(torch.uint8)
    return packed


FORMATS = [32, 16, -16, 8, 4, 2, 1]


@pytest.mark.parametrize("kind", FORMATS)
@relaxed
@given(st.data())
def test_lookups_of_fixed_length(kind: int, data: st.DataObject) -> None:
    rng = generator(data.draw(seeds))
    bits = 32 if abs(kind) >= 16 else kind
    features, output, tables, batch = [], 0, [], drawn(data, 2, 9)
    for column in range(drawn(data, 1, 3)):
        rows, dim = drawn(data, 1, 20), drawn(data, 1, 40)
        length = drawn(data, 1, 5)
        tables.append(table(rng, kind, rows, dim))
        features.append(
            lookup.Feature(
                column, 0, dim, output, column=0, length=length, bits=bits,
                pooling=data.draw(st.sampled_from([lookup.SUM, lookup.MEAN, lookup.NONE])),
                padding=data.draw(st.sampled_from([-1, 0])), weights=data.draw(st.sampled_from([-1, 0])),
            )
        )  # fmt: skip
        output += features[-1].columns
    least = min(t.shape[0] for t in tables)
    ids = torch.randint(0, least, (batch, 5), generator=rng)
    ids = ids.int() if data.draw(st.booleans()) else ids
    factors, dense = torch.rand(batch, 5, generator=rng), torch.randn(batch, 3, generator=rng)
    numbers = lookup.encode(features)

    def function(ids: torch.Tensor, factors: torch.Tensor, dense: torch.Tensor, *tables: torch.Tensor) -> torch.Tensor:
        return torch.ops.recfx.grouped_lookup(
            list(tables), [ids], [], [factors], [dense], numbers, [0, output], output + 3
        )

    near(function, [ids, factors, dense], tables, 1e-5, 1e-5)


def jagged_inputs(rng: torch.Generator, lengths: torch.Tensor, batch: int, last: bool) -> list[torch.Tensor]:
    """Dense [B, 1], ids, offsets and weights of jagged bags with the given lengths."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    ids = torch.randint(0, 9, (int(lengths.sum()),), generator=rng)
    dense = torch.randn(batch, 1, generator=rng)
    return [dense, ids, offsets if last else offsets[:-1], torch.rand(ids.shape, generator=rng)]


@cache
def jagged_lookup(segments: int, last: bool) -> tuple[Callable[..., torch.Tensor], list[Any]]:
    """A lookup of several jagged features of every kind, and its lowerings."""
    rng = generator(segments)
    tables = [torch.randn(9, 7 + 10 * s, generator=rng) for s in range(segments)]
    features, output = [], 0
    for s, held in enumerate(tables):
        features.append(
            lookup.Feature(
                s, 0, held.shape[1], output, length=lookup.JAGGED, offsets=0, segment=s, segments=segments, last=last,
                pooling=lookup.MEAN if s == 1 else lookup.SUM, padding=2 if s else -1, weights=0 if s == 2 else -1,
            )
        )  # fmt: skip
        output += held.shape[1]
    numbers = lookup.encode(features)

    def function(dense: Any, ids: Any, offsets: Any, factors: Any, *tables: torch.Tensor) -> Any:
        held = torch.ops.recfx.grouped_lookup(
            list(tables), [ids], [offsets], [factors], [dense], numbers, [0, output], output + 1
        )
        return held * 1.0

    example = jagged_inputs(rng, torch.full((4 * segments,), 2), 4, last)
    sizes = tuple({0: torch.export.Dim(name)} for name in ("batch", "count", "ends"))
    runs = lower_everywhere(function, example, tables, dynamic_shapes={"inputs": (*sizes, sizes[1])})
    return lambda *inputs: function(*inputs, *tables), runs


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("last", [False, True])
@relaxed
@given(st.data())
def test_jagged_lookups(segments: int, last: bool, data: st.DataObject) -> None:
    function, runs = jagged_lookup(segments, last)
    batch = drawn(data, 1, 6)
    size = batch * segments
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)))
    inputs = jagged_inputs(generator(data.draw(seeds)), lengths, batch, last)
    for run in runs:
        torch.testing.assert_close(run(*inputs)[0], function(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [[0, 3, 1, 4], [0, 2, 3, 99], [-1, 2, 3, 4], [1, 2, 3, 4]])
def test_wrong_offsets_are_an_error(bad: list[int]) -> None:
    _, runs = jagged_lookup(1, True)
    for run in runs:
        with pytest.raises(recfx.InputError, match="offsets"):
            run(torch.randn(3, 1), torch.tensor([1, 2, 3, 4]), torch.tensor(bad), torch.rand(4))


@pytest.mark.parametrize("padding", [-1, 0])
@pytest.mark.parametrize("length", [1, 3])
def test_weights_that_the_plan_reads_before_the_ids(length: int, padding: int) -> None:
    """They are in its first slot, and the padding is the first row."""
    rng = generator(0)
    rows, ids = torch.randn(5, 16, generator=rng), torch.arange(18).reshape(6, 3) % 5
    factors = torch.rand(6, 3, generator=rng)
    numbers = lookup.encode([lookup.Feature(0, 0, 16, 0, length=length, padding=padding, weights=0)])

    def function(factors: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        doubled = factors * 2
        return lookup.grouped_lookup([rows], [ids], [], [factors], [doubled], numbers, [0, 16], 19)

    near(function, [factors, ids], [rows], 1e-6, 1e-6)


@cache
def lookup_and_product(late: bool) -> Program:
    """A lookup of one feature before a product, or after it. The product is so large that a team is worth it."""
    rng, numbers = generator(1), lookup.encode([lookup.Feature(0, 0, 16, 0)])
    held, weight = torch.randn(5, 16, generator=rng), torch.randn(800, 800, generator=rng) / 30

    def look(ids: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        return lookup.grouped_lookup([held], [ids], [], [], [], numbers, [], 16)

    def function(x: torch.Tensor, ids: torch.Tensor, held: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        early = None if late else look(ids, held)
        product = x @ weight
        return torch.cat([product, look(ids, held) if early is None else early], 1)

    return program_of(function, [torch.ones(4, 800), torch.zeros(4, 1, dtype=torch.int64)], [held, weight])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("late", [False, True], ids=["before a product", "after a product"])
def test_shares_without_rows_or_features(late: bool, level: str, threads: Callable[[int], None]) -> None:
    """A team has more threads than the lookup has rows and features."""
    program = lookup_and_product(late)
    run, x, ids = lower(program, level), torch.randn(4, 800, generator=generator(2)), torch.tensor([[0], [4], [2], [4]])
    (expected,) = program.run([x, ids])
    for team, rows, _ in itertools.product(
        (1, 2, 3, 5), (1, 2, 3, 4), range(8)
    ):  # a busy machine leaves some calls alone
        threads(team)
        torch.testing.assert_close(run(x[:rows], ids[:rows])[0], expected[:rows], rtol=1e-4, atol=1e-4)
