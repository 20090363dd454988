"""Probes: the generated batches, and the draws of columns, of rows in other dimensions, of sizes and of bags."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from recfx.ir import Program
from recfx.ir.bags import Bags, Form, Stream
from recfx.ir.probes import PROBE_BATCHES, has_fixed_bags, probes, reshuffle
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def program_of(inputs: dict[str, Any], example: tuple[Any, ...], bags: tuple[Bags, ...] = ()) -> Program:
    """A program that returns its inputs."""
    b = GraphBuilder(inputs)
    made = b.build(*b.inputs.values())
    made.example, made.bags = example, bags
    return made


def with_dims(program: Program, low: int, high: int | None) -> Program:
    program.signature = dataclasses.replace(program.signature, dims={**program.signature.dims, "batch": (low, high)})
    return program


def columns(rows: int, width: int) -> torch.Tensor:
    """Every number encodes its row and its column."""
    return torch.arange(rows)[:, None] + 100.0 * torch.arange(width)


def draws(program: Program, batch: int = 200, seed: int = 0) -> list[Any]:
    return reshuffle(program, batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("low", "high", "rows", "expected"),
    [
        (1, None, 3, [1, 2, 7, 3]),
        (1, None, 7, [1, 2, 7]),
        (2, None, 3, [2, 2, 7, 3]),
        (1, 5, 4, [1, 2, 5, 4]),
        (3, 5, 4, [3, 3, 5, 4]),
        (1, 7, 9, [1, 2, 7, 7]),
    ],
)
def test_batches_of_one_two_seven_and_the_example_s_within_the_range(
    low: int, high: int | None, rows: int, expected: list[int]
) -> None:
    program = with_dims(program_of({"x": ("batch", 4)}, (columns(rows, 4),)), low, high)
    program.cases = ((columns(2, 4),), (columns(6, 4),))
    made = probes(program)
    assert PROBE_BATCHES == (1, 2, 7)
    assert [name for name, _ in made] == [
        *(f"reshuffled inputs at batch {batch}" for batch in expected),
        "further inputs 0",
        "further inputs 1",
    ]
    assert [len(leaves[0]) for _, leaves in made] == [*expected, 2, 6]


def test_probes_follow_their_seed() -> None:
    program = program_of({"x": ("batch", 4)}, (columns(9, 4),))
    first, again, other = probes(program), probes(program, 0), probes(program, 1)
    assert all(torch.equal(a[1][0], b[1][0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[1][0], b[1][0]) for a, b in zip(first, other, strict=True))


def test_every_column_is_drawn_on_its_own_from_the_example_s() -> None:
    example = columns(5, 6).reshape(5, 2, 3)
    (drawn,) = draws(program_of({"x": ("batch", 2, 3)}, (example,)))
    assert drawn.shape == (200, 2, 3)
    flat = drawn.reshape(200, 6)
    for column in range(6):
        assert set((flat[:, column] - 100 * column).tolist()) == set(range(5))
    assert not torch.equal(flat[:, 0], flat[:, 1] - 100)
    assert PROBE_BATCHES


@pytest.mark.parametrize(("dim", "step"), [(1, 1), (1, 2), (0, 3), (2, 1)])
def test_rows_in_another_dimension_are_drawn_whole(dim: int, step: int) -> None:
    sizes: list[Any] = [2, 2, 2]
    sizes[dim] = "batch" if step == 1 else f"{step}*batch"
    shape = [4 * step if at == dim else size for at, size in enumerate(sizes)]
    example = torch.arange(torch.Size(shape).numel()).reshape(shape)
    program = program_of({"state": tuple(sizes), "flag": (3,)}, (example, torch.ones(3)))
    drawn, flag = draws(program)
    assert drawn.shape[dim] == 200 * step
    assert torch.equal(flag, torch.ones(3))
    rows = {tuple(row.flatten().tolist()) for row in example.movedim(dim, 0).split(step)}
    found = {tuple(row.flatten().tolist()) for row in drawn.movedim(dim, 0).split(step)}
    assert found == rows
    # The example's batch is read from that dimension, not from the first one.
    assert [name.rsplit(" ", 1)[1] for name, _ in probes(program)] == ["1", "2", "7", "4"]


def test_an_integer_that_is_the_batch_follows_it() -> None:
    program = program_of({"x": ("batch", 2), "n": ((), torch.int64)}, (columns(3, 2), 3))
    first, second = program.signature.leaves
    leaves = (first, dataclasses.replace(second, kind="size", value="batch", dtype=None, shape=()))
    program.signature = dataclasses.replace(program.signature, leaves=leaves)
    assert [leaves[1] for _, leaves in probes(program)] == [1, 2, 7, 3]


OFFSETS = {"ids": (("values",), torch.int64), "offsets": (("batch",), torch.int64), "x": ("batch", 2)}


def bags_program(**changes: Any) -> Program:
    example = (torch.tensor([10, 11, 12, 20, 30, 31]), torch.tensor([0, 3, 4, 6]), columns(4, 2))
    return program_of({**OFFSETS, **changes}, example, (Bags(1, Form.OFFSETS, 1, (Stream((0,)),)),))


def test_bags_are_drawn_whole() -> None:
    ids, offsets, x = draws(bags_program(), 50)
    assert len(offsets) == len(x) == 50
    bags = [tuple(bag.tolist()) for bag in ids.tensor_split(offsets[1:])]
    assert set(bags) == {(10, 11, 12), (20,), (30, 31), ()}
    assert [name.rsplit(" ", 1)[1] for name, _ in probes(bags_program())] == ["1", "2", "7", "4"]


def test_bags_of_a_fixed_number_of_ids_are_shuffled_where_they_are() -> None:
    assert not has_fixed_bags(bags_program())
    fixed = bags_program(ids=((6,), torch.int64))
    assert has_fixed_bags(fixed)
    assert not has_fixed_bags(program_of({"x": (6, 2)}, (columns(6, 2),)))
    fixed.cases = ((1, 2, 3),)
    (name, (ids, offsets, x)), further = probes(fixed)
    assert name == "shuffled values"
    assert further == ("further inputs 0", [1, 2, 3])
    assert ids.tolist() == [31, 10, 11, 12, 20, 30]
    assert torch.equal(offsets, fixed.example[1])
    assert torch.equal(x, columns(4, 2).roll(1, 0))


@pytest.mark.parametrize(
    ("row", "shape", "fixed"),
    [(None, (6,), True), (0, (2, "values"), False), (1, (2, 6), True), (0, ("batch", 6), True)],
)
def test_which_dimension_counts_the_ids(row: int | None, shape: tuple[Any, ...], fixed: bool) -> None:
    bags = Bags(1, Form.OFFSETS, 1, (Stream((0,), row),))
    program = program_of({"ids": (shape, torch.int64), "offsets": (("batch",), torch.int64)}, (), (bags,))
    assert has_fixed_bags(program) is fixed


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 7])
def test_without_a_batch_every_row_stands_in_another_row_s_place(seed: int) -> None:
    example = (columns(4, 2), torch.arange(4), torch.ones(1, 3), torch.tensor(2.0), columns(2, 3), torch.zeros(0, 2))
    inputs = {"x": (4, 2), "order": ((4,), torch.int64), "one": (1, 3), "number": (), "two": (2, 3), "none": (0, 2)}
    program = program_of(inputs, example)
    ((name, found),) = probes(program, seed)
    assert name == "shuffled values"
    x, order, one, number, two, none = found
    assert torch.equal(x, example[0].roll(1 + seed % 3, 0))
    assert not (x == example[0]).any()
    assert torch.equal(two, example[4].flip(0))
    for place in (1, 2, 3, 5):
        assert torch.equal(found[place], example[place])
    del order, one, number, none


def test_a_constant_stays() -> None:
    program = program_of({"x": (4, 2), "name": ()}, (columns(4, 2), "a"))
    first, second = program.signature.leaves
    leaves = (first, dataclasses.replace(second, kind="constant", value="a", dtype=None))
    program.signature = dataclasses.replace(program.signature, leaves=leaves)
    ((_, found),) = probes(program)
    assert found[1] == "a"
