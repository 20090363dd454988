"""Refined signs of users: no loss rises, only signs change, and the first items of a better model are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recfx.errors import InputError
from recfx.learn import QuantizedTable, teacher_top
from recfx.learn.post_training import centred_rows, refine_signs, refinement, sign_rows

relaxed = settings(deadline=None, max_examples=30)
KINDS = ("row", "table", "dimension", "centred")


def drawn(seed: int, rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def users_of(kind: str, values: Tensor) -> QuantizedTable:
    if kind == "row":
        return sign_rows(values)
    if kind == "centred":
        return centred_rows(values, 1)
    size = values.abs().mean(None if kind == "table" else 0, keepdim=kind == "dimension")
    return QuantizedTable((values > 0).to(torch.uint8), 0.1 - size, 2 * size, 1)


def loss(users: Tensor, items: Tensor, top: Tensor, candidates: Tensor, ranks: int, decay: float) -> Tensor:
    """The definition of the module, in float64 and for one user at a time."""
    found = []
    for user, first, ids in zip(users.double(), top, candidates, strict=True):
        scores = items.double() @ user
        shares = torch.exp(-decay * torch.arange(min(ranks, len(first)), dtype=torch.float64))
        shares /= shares.sum()
        found.append(scores[ids.unique()].logsumexp(0) - (shares * scores[first[:ranks]]).sum())
    return torch.stack(found)


@relaxed
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    dim=st.integers(1, 12),
    count=st.integers(1, 30),
    ranks=st.integers(1, 8),
    packed=st.booleans(),
    decay=st.sampled_from([0.0, 0.06, 1.0]),
)
def test_losses_fall_until_no_turn_helps(
    seed: int, kind: str, dim: int, count: int, ranks: int, packed: bool, decay: float
) -> None:
    users = users_of(kind, drawn(seed, 6, dim))
    items: Any = drawn(seed + 1, count, dim)
    top = teacher_top(drawn(seed + 2, 6, dim), items, min(5, count))
    if packed:
        items = centred_rows(items, 2)
    rows = items.dequantize() if packed else items
    refined = refine_signs(users, items, top, ranks=ranks, decay=decay, turns=1000, drawn=0)
    own = teacher_top(users.dequantize(), rows, top.shape[1])
    measure = (top, torch.cat([top, own], 1), ranks, decay)
    before, after = (loss(table.dequantize(), rows, *measure) for table in (users, refined))
    assert bool((after <= before + 1e-5).all())
    changed = (refined.codes != users.codes).any(1)
    assert bool((after[changed] < before[changed]).all())
    for column in range(dim):
        turned = refined.codes.clone()
        turned[:, column] = 1 - turned[:, column]
        other = loss(replace(refined, codes=turned).dequantize(), rows, *measure)
        assert bool((other >= after - 1e-3).all())


@relaxed
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), turns=st.integers(1, 5))
def test_only_so_many_signs_change_and_nothing_else(seed: int, kind: str, turns: int) -> None:
    values, items = drawn(seed, 20, 16), drawn(seed + 1, 60, 16)
    users = users_of(kind, values)
    refined = refine_signs(users, items, teacher_top(values, items, 30), turns=turns, seed=seed)
    assert int((refined.codes != users.codes).sum(1).max()) <= turns
    for name in ("lower", "step", "centre"):
        assert getattr(refined, name) is getattr(users, name)
    assert torch.equal(users.codes, users_of(kind, values).codes)


def test_answers_do_not_depend_on_blocks_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    values, items = drawn(0, 40, 16), drawn(1, 300, 16)
    users, top = sign_rows(values), teacher_top(values, items, 20)
    whole = refine_signs(users, items, top, drawn=50, seed=3).codes
    assert torch.equal(refine_signs(users, items, top, drawn=50, seed=3).codes, whole)
    monkeypatch.setattr("recfx.learn.post_training.refinement._BLOCK_VALUES", 7 * 90 * 16)
    assert torch.equal(refine_signs(users, items, top, drawn=50, seed=3).codes, whole)


def test_users_find_what_the_teacher_ranks_first() -> None:
    """Signs of both sides preserve little of a teacher's order; with fixed items, the users' signs are chosen for
    it."""
    users, items = drawn(0, 200, 32) * 0.7, drawn(1, 2_000, 32) * 0.7
    top, rounded = teacher_top(users, items, 200), sign_rows(items)

    def share(table: QuantizedTable) -> float:
        found = teacher_top(table.dequantize(), rounded.dequantize(), 20)
        return float((found[:, :, None] == top[:, None, :20]).any(2).float().mean())

    before = sign_rows(users)
    after = refine_signs(before, rounded, top, ranks=20)
    assert share(after) > 1.3 * share(before)


def test_items_that_are_left_out_are_no_candidates() -> None:
    """Without exclusion, a user's first items are those of the user's history."""
    items = torch.cat([torch.full((5, 4), 2.0), drawn(0, 40, 4)])
    users = sign_rows(torch.ones(1, 4))
    top = torch.tensor([[7, 9]])
    taken = (torch.tensor([0, 5]), torch.arange(5))
    free = refine_signs(users, items, top, exclude=taken, drawn=0, turns=50)
    bound = refine_signs(users, items, top, drawn=0, turns=50)
    own = teacher_top(users.dequantize(), items, 2, exclude=taken)
    assert not bool(torch.isin(own, torch.arange(5)).any())
    measure = (top, torch.cat([top, own], 1), 100, 0.06)
    one, other = (loss(table.dequantize(), items, *measure) for table in (free, bound))
    assert float(one) <= float(other) + 1e-6


def test_losses_do_not_rise_where_exponentials_vanish() -> None:
    """Relative to a score of 40, the exponential of -80 vanishes in float32; after the turn it is the greatest."""
    users = QuantizedTable(torch.ones(1, 2, dtype=torch.uint8), torch.tensor(-1.0), torch.tensor(2.0), 1)
    items = torch.tensor([[20.0, 20.0], [40.0, 12.0], [-40.0, -13.0]])
    top = torch.tensor([[0, 1, 2]])
    refined = refine_signs(users, items, top, ranks=1, drawn=0)
    before, after = (float(loss(table.dequantize(), items, top, top, 1, 0.06)) for table in (users, refined))
    assert after <= before


@pytest.mark.parametrize("left_out", [0, 8])
def test_items_drawn_are_none_of_those_left_out(left_out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items, users = drawn(0, 10, 6), sign_rows(drawn(1, 30, 6))
    top = torch.full((30, 1), 9)
    taken = (torch.arange(31) * left_out, torch.arange(left_out).repeat(30))
    hidden: list[Tensor] = []
    plain = refinement._Descent.__init__
    monkeypatch.setattr(refinement._Descent, "__init__", lambda *parts: hidden.append(parts[5]) or plain(*parts))
    refined = refine_signs(users, items, top, exclude=taken, drawn=40)
    # Of 42 candidates, only as many are different as items remain.
    assert int((~torch.cat(hidden)).sum(1).max()) == 10 - left_out
    measure = (top, torch.arange(left_out, 10).expand(30, -1), 100, 0.06)
    before, after = (loss(table.dequantize(), items, *measure) for table in (users, refined))
    assert float(after.mean()) < float(before.mean())


def test_nothing_to_refine() -> None:
    empty = sign_rows(torch.empty(0, 8))
    assert refine_signs(empty, drawn(0, 5, 8), torch.empty(0, 3, dtype=torch.int64)).codes.shape == (0, 8)
    lone = sign_rows(drawn(0, 3, 8))
    same = refine_signs(lone, drawn(1, 1, 8), torch.zeros(3, 1, dtype=torch.int64))
    assert torch.equal(same.codes, lone.codes)  # the only item is first for any signs


USERS, ITEMS, TOP = sign_rows(drawn(0, 4, 8)), drawn(1, 9, 8), torch.zeros(4, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: refine_signs(centred_rows(drawn(0, 4, 8), 2), ITEMS, TOP), "codes of 2 bits have no signs"),
        (lambda: refine_signs(USERS, ITEMS[:, :7], TOP), "differ in columns"),
        (lambda: refine_signs(USERS, ITEMS.log(), TOP), "holds NaN"),
        (lambda: refine_signs(USERS, ITEMS, TOP[:3]), r"top must be int64 \[4, R\]"),
        (lambda: refine_signs(USERS, ITEMS, TOP.float()), "top must be int64"),
        (lambda: refine_signs(USERS, ITEMS, TOP[:, :0]), "top must be int64"),
        (lambda: refine_signs(USERS, ITEMS, TOP + 9), "top names items from 9 to 9, there are 9"),
        (lambda: refine_signs(USERS, ITEMS, TOP - 1), "top names items from -1"),
        (lambda: refine_signs(USERS, ITEMS[:0], TOP), "there are 0"),
        (lambda: refine_signs(USERS, ITEMS, TOP, ranks=0), "ranks 0"),
        (lambda: refine_signs(USERS, ITEMS, TOP, temperature=0.0), "temperature 0.0"),
        (lambda: refine_signs(USERS, ITEMS, TOP, decay=float("nan")), "decay nan"),
        (lambda: refine_signs(USERS, ITEMS, TOP, decay=float("inf")), "decay inf"),
        (lambda: refine_signs(replace(USERS, lower=USERS.lower.log()), ITEMS, TOP), "the users' lower holds NaN"),
        (lambda: refine_signs(USERS, ITEMS, TOP, exclude=(torch.zeros(4).long(), TOP[:0, 0])), "5 rising row starts"),
        (lambda: refine_signs(USERS, ITEMS, TOP, exclude=(torch.tensor([0, 2, 1, 2, 2]), TOP[:2, 0])), "rising row starts"),
        (lambda: refine_signs(USERS, ITEMS, TOP, exclude=(torch.tensor([0, 0, 0, 0, 1]), TOP[:1, 0] + 9)), "there are 9"),
        (lambda: refine_signs(USERS, 1e3 * ITEMS, TOP), "raise the temperature"),
    ],
)  # fmt: skip
def test_bad_calls(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
