"""The grids of embeddings: the error of symmetric rows, and the choice between kinds of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_kit import drawn

from recfx.errors import InputError
from recfx.retrieval import Index, TwoStageIndex
from recfx.retrieval.fitting import better_rows, fit

relaxed = settings(deadline=None, max_examples=25)


def held(values: torch.Tensor, bits: int, kind: str) -> torch.Tensor:
    grid, rounding = fit(values, bits, kind)  # type: ignore[arg-type]
    return grid.decode(rounding.encode(values, bits))


@pytest.mark.parametrize("bits", [2, 4, 8])
@relaxed
@given(seed=st.integers(0, 2**32), dim=st.integers(1, 90), size=st.sampled_from([1e-25, 1.0, 1e14]))
def test_symmetric_rows_do_not_underrate_themselves(bits: int, seed: int, dim: int, size: float) -> None:
    values = drawn(seed, 40, dim) * size
    products = (held(values, bits, "symmetric") * values).sum(1)
    torch.testing.assert_close(products, (values * values).sum(1), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("bits", [2, 4])
@relaxed
@given(seed=st.integers(0, 2**32))
def test_codes_of_symmetric_rows_lose_no_more_than_the_optimal_grid_of_normal_values(bits: int, seed: int) -> None:
    """Max (1960): a uniform grid for normal values loses .1188 of their variance at 2 bits and .01154 at 4; a grid that
    is fitted to its row loses less."""
    values = drawn(seed, 500, 64)
    rounding = fit(values, bits, "symmetric").rounding
    error = (rounding.decode(rounding.encode(values, bits)) - values).square().mean()
    assert float(error) < {2: 0.1188, 4: 0.01154}[bits]


def test_rows_at_one_bit_are_signs_times_their_mean_magnitude() -> None:
    values = drawn(0, 30, 20)
    for kind in ("row", "symmetric"):
        assert fit(values, 1, kind).grid.kind == "symmetric"  # type: ignore[arg-type]
        expected = torch.where(values > 0, 1.0, -1.0) * values.abs().mean(1, keepdim=True)
        torch.testing.assert_close(held(values, 1, kind), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("values", [torch.zeros(3, 8), torch.empty(0, 8), torch.full((3, 8), 1e-42)], ids=str)
def test_rows_without_values_stand_for_nothing(bits: int, values: torch.Tensor) -> None:
    found = held(values, bits, "symmetric")
    assert found.shape == values.shape
    assert bool((found.abs() <= 1e-30).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_of_positive_values_keep_their_extremes(bits: int) -> None:
    """As from towers that end in a ReLU: half the levels about zero would be unused."""
    values = drawn(0, 300, 32).abs() + 1
    assert better_rows(values, bits) == "row"
    assert Index.from_embeddings(values, bits)._store.grid.kind == "row"
    assert TwoStageIndex.from_embeddings(values, bits).first._store.grid.kind == "row"


def test_normal_values_on_two_bits_get_symmetric_rows_and_shorter_lists() -> None:
    items, held_out = drawn(0, 5_000, 64), drawn(1, 64, 64)
    assert Index.from_embeddings(items, 2)._store.grid.kind == "symmetric"
    chosen = TwoStageIndex.from_embeddings(items, 2)
    spread = TwoStageIndex.from_embeddings(items, 2, scales="row")
    assert chosen.nbytes < spread.nbytes
    assert chosen.calibrate(held_out, 20) < 0.7 * spread.calibrate(held_out, 20)


def test_symmetric_rows_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(0, 100, 16)
    whole = fit(values, 2, "symmetric")
    monkeypatch.setattr("recfx.retrieval.fitting._BLOCK_VALUES", 16 * 7)
    blocks = fit(values, 2, "symmetric")
    torch.testing.assert_close(blocks.grid.step, whole.grid.step)
    torch.testing.assert_close(blocks.rounding.step, whole.rounding.step)


def test_rows_are_judged_by_all_of_them() -> None:
    """The sample is random, because regular steps would select one of two alternating kinds."""
    values = drawn(0, 9_000, 32)
    values[1::2] = values[1::2].abs() * 3 + 1
    assert better_rows(values, 2) == "row"
    assert better_rows(values[::2], 2) == "symmetric"


def test_tiny_values_are_judged_like_others() -> None:
    for values in (drawn(0, 50, 32), drawn(0, 50, 32).abs() + 1):
        assert better_rows(values * 1e-24, 2) == better_rows(values, 2)


def test_the_first_items_of_an_empty_index_say_what_rows_suit_them() -> None:
    for values, kind in ((drawn(0, 40, 32), "symmetric"), (drawn(0, 40, 32).abs() + 1, "row")):
        built = Index.from_embeddings(values, 2)
        rows = built._store.grid.with_lower_ends()
        constants = rows.lower[:, None], rows.step[:, None]
        empty = Index.from_embeddings(values[:0], 2)
        empty.add(values)
        of_codes = Index.from_codes(built.codes()[:0], 2, torch.zeros(0, 1), torch.zeros(0, 1))
        of_codes.add(built.codes(), *constants)
        for index in (empty, of_codes):
            assert index._store.grid.kind == built._store.grid.kind == kind
            assert torch.equal(index.search(values[:3], 9)[1], built.search(values[:3], 9)[1])


@pytest.mark.parametrize("kind", ["row", "symmetric"])
def test_kinds_that_were_asked_for_stay(kind: Any) -> None:
    for values in (drawn(0, 40, 32), drawn(0, 40, 32).abs() + 1):
        index = Index.from_embeddings(values[:0], 2, scales=kind)
        index.add(values)
        assert index._store.grid.kind == kind
        built = Index.from_embeddings(values, 2, scales=kind)
        assert torch.equal(index.search(values[:3], 9)[1], built.search(values[:3], 9)[1])


def test_adding_nothing_changes_nothing() -> None:
    index = Index.from_embeddings(drawn(0, 40, 16), 2, scales="symmetric")
    index.add(torch.zeros(0, 16, dtype=torch.uint8), torch.zeros(0, 1), torch.zeros(0, 1))
    assert index._store.grid.kind == "symmetric"


@pytest.mark.parametrize("bits", [0, 3, 16, "2"])
def test_two_stages_refuse_what_one_refuses(bits: Any) -> None:
    with pytest.raises(InputError, match="1, 2, 4 or 8 bits"):
        TwoStageIndex.from_embeddings(drawn(0, 4, 8), bits)


def test_the_default_at_one_bit_ranks_items_of_different_lengths() -> None:
    """One scale for the table loses the lengths, which determine the ranking of popular items."""
    rng = torch.Generator().manual_seed(0)
    items = torch.randn(4000, 64, generator=rng) * torch.randn(4000, 1, generator=rng).exp()
    queries = torch.randn(50, 64, generator=rng)
    exact = (queries @ items.T).topk(20).indices

    def recall(index: Index) -> float:
        ids = index.search(queries, 20)[1]
        return float((ids[:, :, None] == exact[:, None, :]).any(2).float().mean())

    index = Index.from_embeddings(items, 1)
    assert index.query_bits == 8
    assert index.scales in ("row", "symmetric")
    assert index.nbytes / len(items) == pytest.approx(12, abs=0.01)
    assert recall(index) > 0.5
    assert recall(Index.from_embeddings(items, 1, scales="table")) < 0.3
    empty = Index.from_embeddings(items[:0], 1)
    empty.add(items)
    assert torch.equal(empty.search(queries, 20)[1], index.search(queries, 20)[1])
