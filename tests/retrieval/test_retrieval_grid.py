"""The grids of codes: their values, the constants of each kind of grid, and refused constants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn

from recfx.errors import InputError
from recfx.formats.searchable import LARGEST
from recfx.retrieval import Index
from recfx.retrieval.fitting import better_rows, fit
from recfx.retrieval.grid import given as grid_given
from recfx.retrieval.grid import given_rows

KINDS = ["table", "row", "symmetric", "dimension"]
AXES: dict[str, Any] = {"table": (0, 1), "row": 1, "dimension": 0}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", AXES)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 20), dim=st.integers(1, 20))
def test_grids_spread_from_the_smallest_value_to_the_largest(
    kind: Any, bits: int, seed: int, rows: int, dim: int
) -> None:
    values = drawn(seed, rows, dim) + 0.3
    grid, rounding = fit(values, bits, kind)
    held = grid.decode(rounding.encode(values, bits))
    low, high = values.amin(AXES[kind], keepdim=True), values.amax(AXES[kind], keepdim=True)
    step = (high - low) / (2**bits - 1)
    assert bool(((held - values).abs() <= step * 0.501 + 1e-6).all())
    torch.testing.assert_close(held.amin(AXES[kind], keepdim=True), low)
    torch.testing.assert_close(held.amax(AXES[kind], keepdim=True), high)
    outside = rounding.encode(values + 100 * (high - low) + 1, bits)
    assert bool((outside == 2**bits - 1).all())


@pytest.mark.parametrize("kind", ["table", "row", "dimension"])
def test_one_bit_stands_for_a_sign_times_the_mean_magnitude(kind: Any) -> None:
    values = drawn(0, 30, 20)
    grid, rounding = fit(values, 1, kind)
    expected = torch.where(values > 0, 1.0, -1.0) * values.abs().mean(AXES[kind], keepdim=True)
    torch.testing.assert_close(grid.decode(rounding.encode(values, 1)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_on_the_boundary_is_code_0_at_one_bit(kind: Any) -> None:
    values = torch.tensor([[0.0, 1.0, -1.0], [0.0, -2.0, 2.0]])
    assert fit(values, 1, kind).rounding.encode(values, 1).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_items_join_an_index_that_was_built_of_none(kind: Any, bits: int) -> None:
    index = Index.from_embeddings(torch.empty(0, 6), bits, scales=kind)
    assert index.scales in ((kind,) if bits > 1 or kind not in ("row", "symmetric") else ("symmetric",))
    assert index.decode().shape == (0, 6)
    assert index.add(drawn(0, 3, 6)).tolist() == [0, 1, 2]
    if kind in ("row", "symmetric"):
        whole = Index.from_embeddings(drawn(0, 3, 6), bits, scales=kind)
        torch.testing.assert_close(index.decode(), whole.decode())
    else:  # a grid without items has only zeros
        assert not index.decode().any()
        assert index._store.grid.step.shape == (() if kind == "table" else (6,))


def test_rows_that_lose_nothing_are_taken_from_their_extremes() -> None:
    for bits in (2, 4, 8):
        assert better_rows(torch.zeros(5, 8), bits) == "row"
        assert better_rows(torch.empty(0, 8), bits) == "row"


def test_up_to_4096_rows_are_all_judged() -> None:
    """With more rows, a sample is judged; in this sample no row has an error."""
    for rows, expected in ((4096, "symmetric"), (4097, "row")):
        values = torch.zeros(rows, 64)
        sampled = torch.randint(0, rows, (4096,), generator=torch.Generator().manual_seed(0))
        others = torch.ones(rows, dtype=torch.bool).index_fill(0, sampled, False)
        values[others] = drawn(0, int(others.sum()), 64)
        assert better_rows(values, 2) == expected


SHAPES: dict[str, tuple[int, int, tuple[int, ...], str | None]] = {
    "a number for the table": (3, 8, (), "table"),
    "one number in a vector": (3, 8, (1,), "table"),
    "one number in a matrix": (3, 8, (1, 1), "table"),
    "one number in three dimensions": (3, 8, (1, 1, 1), None),
    "a number for the table of one row": (1, 8, (), "table"),
    "a column for one row": (1, 8, (1, 1), "row"),
    "a vector of one for one row": (1, 8, (1,), None),
    "a vector of one for one row of one dimension": (1, 1, (1,), "dimension"),
    "a column": (3, 8, (3, 1), "row"),
    "a vector of rows": (3, 8, (3,), None),
    "a vector": (3, 8, (8,), "dimension"),
    "a row": (3, 8, (1, 8), "dimension"),
    "a column of another length": (3, 8, (2, 1), None),
    "a row of another length": (3, 8, (1, 7), None),
    "a matrix": (3, 8, (3, 8), None),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_shape_of_constants_says_whose_they_are(case: str) -> None:
    rows, dim, shape, kind = SHAPES[case]
    lower, step = torch.full(shape, 0.3), torch.full(shape, 0.2)
    if kind is None:
        with pytest.raises(InputError, match="fit the codes"):
            grid_given(lower, step, rows, dim, 2)
        return
    grid = grid_given(lower, step, rows, dim, 2)
    assert grid.kind == kind
    assert grid.lower.shape == grid.step.shape == {"table": (), "row": (rows,), "dimension": (dim,)}[kind]
    codes = torch.randint(0, 4, (rows, dim), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Index.from_codes(codes, 2, lower, step).decode(), 0.3 + 0.2 * codes.float())


def test_a_number_goes_with_constants_of_another_shape() -> None:
    codes = torch.randint(0, 4, (3, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    step = torch.rand(3, 1) + 0.1
    torch.testing.assert_close(Index.from_codes(codes, 2, 0.5, step).decode(), 0.5 + step * codes)
    torch.testing.assert_close(Index.from_codes(codes, 2, step, 0.5).decode(), step + 0.5 * codes)


@pytest.mark.parametrize(("bits", "lower", "step"), [(1, -1.0, 2.0), (2, 0.0, 1.0), (4, 0.0, 1.0), (8, 0.0, 1.0)])
def test_codes_without_constants(bits: int, lower: float, step: float) -> None:
    codes = torch.tensor([[0, 1, (1 << bits) - 1]], dtype=torch.uint8)
    index = Index.from_codes(codes, bits)
    assert torch.equal(index.decode(), lower + step * codes.float())
    assert index.scales == "table"


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)], ids=str)
def test_constants_of_rows_that_join_an_index(shape: tuple[int, ...]) -> None:
    grid = given_rows(torch.full(shape, 0.25), torch.full(shape, 0.5), 3, 2)
    assert grid.kind == "row"
    assert grid.lower.tolist() == [0.25] * 3
    assert grid.step.tolist() == [0.5] * 3
    for lower, step in ((torch.zeros(2), torch.ones(3)), (torch.zeros(3), torch.ones(2)), (0.0, torch.ones(3))):
        with pytest.raises(InputError, match="3 rows need as many lower ends and steps"):
            given_rows(lower, step, 3, 2)
    for lower, step in ((None, torch.ones(3)), (torch.ones(3), None), (None, None)):
        with pytest.raises(InputError, match="lower and step go together"):
            given_rows(lower, step, 3, 2)


def test_symmetric_constants_are_known_to_within_a_few_roundings() -> None:
    step = torch.full((3, 1), 0.75)
    for slip, kind in ((0.0, "symmetric"), (2.0**-22, "symmetric"), (1.9 * 2.0**-22, "symmetric"), (2.0**-20, "row")):
        lower = (-1.5 * step.double() * (1 + slip)).float()
        assert grid_given(lower, step, 3, 8, 2).kind == kind
    assert grid_given(-1.5 * step + torch.tensor([[0.0], [0.0], [0.5]]), step, 3, 8, 2).kind == "row"
    assert grid_given(torch.zeros(3, 1), torch.zeros(3, 1), 3, 8, 2).kind == "symmetric"
    assert grid_given(torch.zeros(0, 1), torch.zeros(0, 1), 0, 8, 2).kind == "row"


@pytest.mark.parametrize("name", ["lower", "step"])
def test_the_range_of_constants(name: str) -> None:
    def taken(value: float) -> Any:
        return grid_given(value if name == "lower" else 0.0, value if name == "step" else 1.0, 3, 8, 2)

    assert taken(LARGEST).kind == "table"
    assert taken(0.0).kind == "table"
    for bad in (2 * LARGEST, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"{name} holds NaN, infinities or numbers beyond 1e\\+15"):
            taken(bad)
    if name == "step":
        with pytest.raises(InputError, match="a step is negative"):
            taken(-1e-9)


def test_the_range_of_numbers() -> None:
    items = torch.tensor([[LARGEST, -LARGEST], [1.0, 2.0]])
    for scales in KINDS:
        index = Index.from_embeddings(items, 8, scales=scales)  # type: ignore[arg-type]
        assert index.search(items[1:], 2)[1].shape == (1, 2)
    for row, bad in ((0, 2 * LARGEST), (1, -2 * LARGEST), (1, float("nan")), (0, float("-inf"))):
        held = torch.ones(2, 2)
        held[row, 1] = bad
        with pytest.raises(InputError, match=f"row {row} of items holds NaN, infinities or numbers"):
            Index.from_embeddings(held, 8)
        with pytest.raises(InputError, match=f"row {row} of items holds NaN"):
            index.add(held)


@pytest.mark.parametrize("form", ["transposed", "float64", "float16", "with gradients", "every other column"])
def test_embeddings_in_any_form(form: str) -> None:
    def turned(plain: torch.Tensor) -> torch.Tensor:
        if form == "transposed":
            return plain.T.contiguous().T
        if form == "every other column":
            return plain.repeat_interleave(2, 1)[:, ::2]
        if form == "with gradients":
            return plain.clone().requires_grad_()
        return plain.to({"float64": torch.float64, "float16": torch.float16}[form])

    items, queries = drawn(0, 30, 12).half().float(), drawn(1, 4, 12).half().float()
    for scales in KINDS:
        whole = Index.from_embeddings(items, 4, scales=scales)  # type: ignore[arg-type]
        index = Index.from_embeddings(turned(items), 4, scales=scales)  # type: ignore[arg-type]
        assert not index._store.grid.step.requires_grad
        for one, other in zip(whole.search(queries, 9), index.search(turned(queries), 9), strict=True):
            assert torch.equal(one, other)
            assert not other.requires_grad


BAD_QUERIES: dict[str, Any] = {
    "floating-point tensor .* got torch.int64": torch.ones(2, 12, dtype=torch.int64),
    r"got torch.float32 \[1, 2, 12\]": torch.ones(1, 2, 12),
    "got list": [[1.0] * 12],
    "must have 12 columns, got 11": torch.ones(2, 11),
    "must have 12 columns, got 0": torch.ones(2, 0),
}


@pytest.mark.parametrize("message", BAD_QUERIES)
@pytest.mark.parametrize("scales", ["row", "dimension"])
def test_queries_of_another_form(message: str, scales: Any) -> None:
    index = Index.from_embeddings(drawn(0, 30, 12), 4, scales=scales)
    with pytest.raises(InputError, match=f"queries must .*{message}|queries .*{message}"):
        index.search(BAD_QUERIES[message], 3)


@pytest.mark.parametrize("scales", KINDS)
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_queries_a_search_cannot_rank_by_are_named(scales: Any, metric: Any) -> None:
    index = Index.from_embeddings(drawn(0, 30, 12), 4, metric, scales=scales)
    queries = drawn(1, 4, 12)
    queries[2, 5] = float("nan")
    with pytest.raises(InputError, match="row 2 of queries holds NaN"):
        index.search(queries, 3)
