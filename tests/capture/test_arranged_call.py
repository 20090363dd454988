"""Inputs with several entries for each row in their first dimension are captured with a multiple of the batch, from any example."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Function
from torch import Tensor, nn

import recfx
from recfx.capture import capture
from recfx.capture.arranged_call import arranged_call, batch_sizes
from recfx.capture.inputs import normalize_call
from recfx.errors import InputError
from recfx.ir.batch_axes import Arrangement, Axis

IDS = 50


class FlatIds(nn.Module):
    """Ids [parts * B], alone or with dense numbers [B, 4] before or after them -> [B, 1]."""

    def __init__(self, parts: int, dense: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts, self.dense = parts, dense
        self.table = nn.Embedding(IDS, 8)
        self.head = nn.Linear(8 * parts + (4 if dense else 0), 1)
        self.eval()

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        ids, numbers = (second, first) if self.dense == "before" else (first, second)
        assert ids is not None
        rows = torch.relu(self.table(ids).view(-1, 8 * self.parts))
        return self.head(rows if numbers is None else torch.cat([rows, numbers], 1))

    def inputs(self, rows: int, seed: int = 0) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, IDS, (self.parts * rows,), generator=generator)
        numbers = torch.randn(rows, 4, generator=generator)
        return {"": (ids,), "before": (numbers, ids), "after": (ids, numbers)}[self.dense]


def sizes(program: Any) -> list[Any]:
    return [leaf.shape[0] for leaf in program.signature.leaves]


@pytest.mark.parametrize("dense", ["", "before", "after"])
@pytest.mark.parametrize("rows", [1, 4])
def test_flat_ids(dense: str, rows: int) -> None:
    model = FlatIds(3, dense)
    fast = recfx.optimize(model, "eager", example_inputs=model.inputs(rows), measure=False)
    program = fast.parts.program
    assert {*sizes(program)} == ({"3*batch", "batch"} if dense else {"3*batch"})
    assert program.signature.dims["batch"][0] == 1
    assert not [notice for notice in program.notices if "batch" in notice]
    for number in (1, 2, 5):
        given = model.inputs(number, seed=number)
        torch.testing.assert_close(fast(*given), model(*given))


def test_ids_that_are_no_multiple_are_refused() -> None:
    model = FlatIds(3, "")
    fast = recfx.optimize(model, "eager", example_inputs=model.inputs(2), measure=False)
    with pytest.raises(InputError, match=r"3\*batch"):
        fast(torch.zeros(7, dtype=torch.int64))


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 12), st.sampled_from(["", "before", "after"]), st.integers(1, 5), st.integers(1, 9))
def test_any_number_of_parts(parts: int, dense: str, rows: int, others: int) -> None:
    model = FlatIds(parts, dense)
    program = capture(model, model.inputs(rows))
    assert f"{parts}*batch" in sizes(program)
    given = model.inputs(others, seed=1)
    torch.testing.assert_close(program.run(given)[0], model(*given), rtol=1e-5, atol=1e-5)


class Pairs(nn.Module):
    """Compares neighbours: rows [2 * B, 3] -> [B]."""

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.view(-1, 2, 3)[:, 0] - rows.view(-1, 2, 3)[:, 1]).sum(1)


def test_pairs_of_rows_are_the_batch() -> None:
    program = capture(Pairs().eval(), (torch.randn(8, 3),))
    assert sizes(program) == ["2*batch"]
    for rows in (2, 6):
        given = torch.randn(rows, 3)
        torch.testing.assert_close(program.run([given])[0], Pairs()(given))


class Fixed(nn.Module):
    """Numbers [B, 4] and weights [3] that every row shares -> [B, 3]."""

    def forward(self, numbers: Tensor, weights: Tensor) -> Tensor:
        return numbers[:, :3] * weights


@pytest.mark.parametrize("rows", [1, 4])
def test_inputs_that_all_rows_share_stay_as_they_are(rows: int) -> None:
    assert sizes(capture(Fixed().eval(), (torch.randn(rows, 4), torch.randn(3)))) == ["batch", 3]


def test_where_the_batch_is_and_the_dimensions_for_export() -> None:
    model = FlatIds(3, "before")
    call = normalize_call(model, model.inputs(1), {})
    assert batch_sizes(call) == [3, 1]
    found = arranged_call(model, call, [3, 1])
    assert found is not None
    assert (found.rows, found.arrangement.axes) == (1, (Axis(0), Axis(0, 3)))
    larger = found.resized(4)
    assert [tuple(leaf.shape) for leaf in larger.leaves] == [(4, 4), (12,)]
    assert torch.equal(larger.leaves[1], found.leaves[1].repeat(4))
    first, second = larger.marks(100)
    assert str(second[0].__name__) == "3*batch"
    assert (first[0].min, first[0].max) == (1, 100)
    assert found.with_more_rows().rows == 5, "3 and 4 are other sizes"
    assert found.gives_rows(model)
    assert found.is_complete
    assert not dataclasses.replace(found, arrangement=Arrangement((Axis(0), None), frozenset())).is_complete
    assert arranged_call(model, call, [2]) is None


class Literal(nn.Module):
    """Rows [6, n] from numbers [6 * n]."""

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(6, -1)


def test_a_literal_size_gives_no_rows() -> None:
    model = Literal().eval()
    found = arranged_call(model, normalize_call(model, (torch.randn(6),), {}), [1])
    assert found is not None
    assert found.arrangement.axes == (Axis(0, 6),)
    assert not found.gives_rows(model)
    assert sizes(capture(model, (torch.randn(6),))) == ["batch"]


class OneUser(nn.Module):
    """Scores of some items for one user."""

    def __init__(self, joined: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.joined = nn.Embedding(30, 4), joined

    def forward(self, user: torch.Tensor, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        found = self.table(user) + self.table(history).mean(1)
        if self.joined == "expand":
            found = found.expand(items.shape[0], -1)
        elif self.joined == "repeat":
            found = found.repeat(items.shape[0], 1)
        return (found * self.table(items)).sum(-1)


@pytest.mark.parametrize("joined", ["expand", "repeat", "broadcast"])
def test_one_user_takes_any_number_of_items(joined: str) -> None:
    """The batch is the items of the example, not multiples of them."""
    model, user, history = OneUser(joined).eval(), torch.tensor([3]), torch.randint(0, 30, (1, 5))
    fast = recfx.optimize(model, "eager", example_inputs=(user, history, torch.arange(6)), measure=False)
    assert [str(leaf.shape) for leaf in fast.program.signature.leaves] == ["(1,)", "(1, 5)", "('batch',)"]
    for items in (torch.arange(1), torch.arange(7), torch.arange(12)):
        torch.testing.assert_close(fast(user, history, items), model(user, history, items))


def test_a_matrix_of_as_many_rows_as_the_example_keeps_its_size() -> None:
    model, matrix = Function(lambda m, x, y: x @ y), torch.randn(6, 6)
    program = capture(model, (torch.randn(6, 6), matrix))
    assert [leaf.shape for leaf in program.signature.leaves] == [("batch", 6), (6, 6)]
    x = torch.randn(7, 6)
    torch.testing.assert_close(program(x, matrix), model(x, matrix))
