"""The kernels for graphs against the operators' references: every level, any shape, any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ids_kit import guarded
from native_kit import LEVELS, needs_kernels
from torch import Tensor

from recfx.ops import graph_kernels as graph
from recfx.ops import propagation, ranking

pytestmark = needs_kernels
Graph = tuple[Tensor, Tensor, Tensor]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_graph(rows: int, edges: int, seed: int) -> Graph:
    """A symmetric graph with at most `edges` edges. Some rows have no edges, the first rows have most of them."""
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.rand(2, edges, generator=generator).square() * rows).long()
    dense = torch.zeros(rows, rows, dtype=torch.bool)
    dense[ends[0], ends[1]] = dense[ends[1], ends[0]] = True
    degrees = dense.sum(1)
    offsets = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    scale = torch.where(degrees > 0, degrees.clamp(min=1).float().rsqrt(), 0)
    return offsets, dense.nonzero()[:, 1].int(), scale


GRAPHS = st.tuples(st.integers(1, 40), st.integers(0, 200), st.integers(0, 2**32))
WEIGHTS = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=5)


@pytest.mark.parametrize("level", LEVELS)
@settings(deadline=None)
@given(drawn=GRAPHS, columns=st.integers(1, 200), weights=WEIGHTS, halved=st.booleans())
@example(drawn=(1, 0, 0), columns=64, weights=[0.5, 0.5], halved=False)
@example(drawn=(1, 1, 0), columns=1, weights=[1.0, 1.0, 1.0], halved=True)
@example(drawn=(30, 200, 0), columns=64, weights=[1.0], halved=True)
def test_propagation_is_the_reference(
    level: str, drawn: tuple[int, int, int], columns: int, weights: list[float], halved: bool
) -> None:
    operands = draw_graph(*drawn)
    x = torch.randn(drawn[0], columns, generator=torch.Generator().manual_seed(drawn[2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECFX_LEVEL", level)
        got = graph.propagate(x, *operands, weights, halved)
    offsets, neighbours, scale = operands
    exact = propagation.reference(x.double(), offsets, neighbours, scale, weights)
    size = propagation.reference(x.double().abs(), offsets, neighbours, scale, [abs(w) for w in weights])
    # Every inner layer rounds its result: by 2^-9 as bfloat16, by 2^-24 as float32, after sums of up to 40 rows.
    unit = 2**-8 if halved and len(weights) > 1 else 2**-19
    assert bool(((got - exact).abs() <= unit * len(weights) * size + 1e-30).all())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("halved", [False, True])
@settings(deadline=None, max_examples=20)
@given(drawn=GRAPHS, columns=st.integers(1, 80), layers=st.integers(0, 4), count=st.integers(2, 5))
def test_propagation_has_the_same_bits_on_any_number_of_threads(
    level: str, halved: bool, drawn: tuple[int, int, int], columns: int, layers: int, count: int
) -> None:
    operands = draw_graph(*drawn)
    x = torch.randn(drawn[0], columns, generator=torch.Generator().manual_seed(drawn[2]))
    results = []
    for team in (1, count):
        with pytest.MonkeyPatch.context() as patch, threads(team):
            patch.setenv("RECFX_LEVEL", level)
            results.append(graph.propagate(x, *operands, [0.25] * (layers + 1), halved))
    assert torch.equal(*results)


def test_the_operator_runs_the_kernel_on_views_and_other_index_types() -> None:
    offsets, neighbours, scale = draw_graph(20, 60, 0)
    x = torch.randn(64, 20).T
    want = graph.propagate(x.contiguous(), offsets, neighbours, scale, [0.5, 0.5])
    assert torch.equal(propagation.propagate(x, offsets, neighbours.long(), scale.double(), [0.5, 0.5]), want)


BAD_GRAPHS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "high neighbour": ({"neighbours": torch.tensor([1, 3], dtype=torch.int32)}, IndexError, "neighbours"),
    "negative neighbour": ({"neighbours": torch.tensor([1, -1], dtype=torch.int32)}, IndexError, "neighbours"),
    "wrapping neighbour": ({"neighbours": torch.tensor([1, 2**32])}, IndexError, "neighbours"),
    "falling offsets": ({"offsets": torch.tensor([0, 2, 1, 2])}, IndexError, "offsets"),
    "offsets past the end": ({"offsets": torch.tensor([0, 1, 2, 3])}, IndexError, "offsets"),
    "late offsets": ({"offsets": torch.tensor([1, 1, 2, 2])}, IndexError, "offsets"),
    "few offsets": ({"offsets": torch.tensor([0, 2])}, ValueError, "offsets"),
    "float neighbours": ({"neighbours": torch.ones(2)}, ValueError, "neighbours"),
    "short scale": ({"scale": torch.ones(2)}, ValueError, "scale"),
    "no weights": ({"weights": []}, ValueError, "weights"),
    "integer x": ({"x": torch.ones(3, 4, dtype=torch.int64)}, ValueError, "x must"),
}


@pytest.mark.parametrize("why", BAD_GRAPHS)
@pytest.mark.parametrize("road", [graph.propagate, propagation.reference])
def test_graphs_that_are_none_are_refused(why: str, road: Any) -> None:
    change, error, text = BAD_GRAPHS[why]
    operands = {
        "x": torch.ones(3, 4),
        "offsets": torch.tensor([0, 1, 2, 2]),
        "neighbours": torch.tensor([1, 0], dtype=torch.int32),
        "scale": torch.ones(3),
        "weights": [0.5, 0.5],
    }
    road(**operands)
    with pytest.raises(error, match=text):
        road(**(operands | change))


def draw_samples(users: int, items: int, batch: int, negatives: int, columns: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    tables = torch.randn(users + items, columns, generator=generator).split([users, items])
    ids = [torch.randint(0, n, (batch,), generator=generator) for n in (users, items)]
    return *tables, *ids, torch.randint(0, items, (batch, negatives), generator=generator)


SAMPLES = st.tuples(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(1, 100),
    st.integers(0, 2**32),
)


@pytest.mark.parametrize("level", LEVELS)
@settings(deadline=None)
@given(drawn=SAMPLES, joint=st.booleans())
def test_ranking_loss_and_gradients_are_the_references(level: str, drawn: tuple[int, ...], joint: bool) -> None:
    users, items, *ids = draw_samples(*drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECFX_LEVEL", level)
        got = graph.bpr(users, items, *ids, joint)
    want = ranking.reference(users.double(), items.double(), *ids, joint)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=1e-6)
    for mine, exact in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@settings(deadline=None, max_examples=20)
@given(drawn=SAMPLES, count=st.integers(2, 5))
def test_ranking_has_the_same_bits_on_any_number_of_threads(level: str, drawn: tuple[int, ...], count: int) -> None:
    samples = draw_samples(*drawn)
    results = []
    for team in (1, count):
        with pytest.MonkeyPatch.context() as patch, threads(team):
            patch.setenv("RECFX_LEVEL", level)
            results.append(graph.bpr(*samples))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("joint", [False, True])
def test_ranking_of_scores_far_apart_stays_finite(joint: bool) -> None:
    users = torch.full((1, 4), 100.0)
    items = torch.stack([torch.full((4,), 100.0), torch.full((4,), -100.0)])
    user, first, second = torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
    loss, *gradients = graph.bpr(users, items, user, first, second[:, None], joint)
    assert float(loss) == 0
    assert not any(g.any() for g in gradients)
    loss, by_users, _ = graph.bpr(users, items, user, second, first[:, None], joint)
    assert float(loss) == 80_000
    assert torch.equal(by_users, torch.full((1, 4), 200.0))


@pytest.mark.parametrize("which", [2, 3, 4])
@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_samples_that_are_no_rows_are_refused(which: int, bad: int) -> None:
    samples = [t.clone() for t in draw_samples(5, 5, 7, 2, 8, 0)]
    samples[which].view(-1)[-1] = bad
    with pytest.raises(IndexError):
        graph.bpr(*samples)
    with pytest.raises(IndexError):
        ranking.reference(*samples)


def test_no_id_is_read_behind_the_samples_and_no_neighbour_behind_the_graph() -> None:
    """Memory that no one may read follows each of them."""
    *tables, users, positives, negatives = draw_samples(5, 5, 7, 2, 8, 0)
    want = graph.bpr(*tables, users, positives, negatives)
    got = graph.bpr(*tables, guarded(users), guarded(positives), guarded(negatives))
    assert all(torch.equal(*pair) for pair in zip(got, want, strict=True))
    offsets, neighbours, scale = draw_graph(9, 40, 0)
    x = torch.randn(9, 8)
    found = graph.propagate(x, guarded(offsets), guarded(neighbours), scale, [0.5, 0.5])
    assert torch.equal(found, graph.propagate(x, offsets, neighbours, scale, [0.5, 0.5]))
