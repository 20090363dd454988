"""canonicalize: a join of all parts of a split is a reshape of what was split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, few_models, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, verify_numeric

ROWS = (torch.randn(3, 6),)
CUBES = (torch.randn(3, 4, 5),)
FLAT = (torch.randn(3, 1, 6),)
GONE = {"aten.cat": 0, "aten.split.Tensor": 0, "aten.unbind.int": 0, "aten.stack": 0}

FIRES = {
    "cat of a split": Case(lambda: Function(lambda m, x: torch.cat(x.split(2, 1), 1) + 1), ROWS, 1, GONE),
    "cat of unequal parts": Case(lambda: Function(lambda m, x: torch.cat(x.split([1, 3, 2], 1), 1) + 1), ROWS, 1, GONE),
    "cat of a split that leaves a rest": Case(
        lambda: Function(lambda m, x: torch.cat(x.split(4, 1), 1) + 1), ROWS, 1, GONE
    ),
    "cat of chunks": Case(lambda: Function(lambda m, x: torch.cat(x.chunk(3, -1), -1) + 1), ROWS, 1, GONE),
    "rows of fields side by side": Case(lambda: Function(lambda m, x: torch.cat(x.split(1, 1), 2) + 1), CUBES, 1, GONE),
    "rows of fields, unbound": Case(lambda: Function(lambda m, x: torch.cat(x.unbind(1), 1) + 1), CUBES, 1, GONE),
    "a dimension of one element in front": Case(
        lambda: Function(lambda m, x: torch.cat(x.split(2, 2), 1) + 1), FLAT, 1, GONE
    ),
    "stack of an unbind": Case(lambda: Function(lambda m, x: torch.stack(x.unbind(1), 1) + 1), CUBES, 1, GONE),
    "stack of parts of one element": Case(
        lambda: Function(lambda m, x: torch.stack(x.split(1, 1), 1) + 1), ROWS, 1, {**GONE, "aten.reshape": 1}
    ),
    "cat with other tensors": Case(
        lambda: Function(lambda m, x: torch.cat([x.cos(), *x.split(2, 1), x.sin()], 1)), ROWS, 1, {"aten.cat": 1}
    ),
    "a split into one part": Case(lambda: Function(lambda m, x: x.split(8, 1)[0] + 1), ROWS, 1, GONE),
    "a chunk that is all": Case(lambda: Function(lambda m, x: x.chunk(1, 1)[0] + 1), ROWS, 1, {"aten.chunk": 0}),
    "a batch in pieces, of which it fills one": Case(
        lambda: Function(lambda m, x: torch.cat([part.exp() for part in x.split(8)])), ROWS, 2, GONE
    ),
    "two splits": Case(
        lambda: Function(lambda m, x: torch.cat([*x.cos().split(2, 1), *x.sin().split(3, 1)], 1)), ROWS, 1,
        {"aten.cat": 1, "aten.split.Tensor": 0},
    ),
}  # fmt: skip

LEAVES_ALONE = {
    "another order": Case(lambda: Function(lambda m, x: torch.cat(x.split(2, 1)[::-1], 1) + 1), ROWS, reason=None),
    "one part is missing": Case(lambda: Function(lambda m, x: torch.cat(x.split(2, 1)[1:], 1) + 1), ROWS, reason=None),
    "the first part of several": Case(lambda: Function(lambda m, x: x.split(4, 1)[0] + 1), ROWS, reason=None),
    "one part twice": Case(
        lambda: Function(lambda m, x: torch.cat([*x.split(2, 1)[:2], x.split(2, 1)[0]], 1) + 1), ROWS, reason=None
    ),
    "parts of several elements side by side": Case(
        lambda: Function(lambda m, x: torch.cat(x.split(2, 1), 2) + 1), CUBES, reason="order in which they lie"
    ),
    "columns one below the other": Case(
        lambda: Function(lambda m, x: torch.cat(x.split(1, 2), 1) + 1), CUBES, reason="order in which they lie"
    ),
    "a stack in front of the rows": Case(
        lambda: Function(lambda m, x: torch.stack(x.unbind(1), 0) + 1), CUBES, reason="order in which they lie"
    ),
    "columns of a transpose": Case(
        lambda: Function(lambda m, x: torch.cat(x.permute(0, 2, 1).split(1, 1), 1) + 1), CUBES, reason="strides"
    ),
    "a stack with other tensors": Case(
        lambda: Function(lambda m, x: torch.stack([*x.unbind(1), x[:, 0].cos()], 1)), CUBES, reason=None
    ),
}


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("canonicalize", FIRES[name], Exactness.EXACT)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    check_does_not_fire("canonicalize", LEAVES_ALONE[name])


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("canonicalize", map(program_of, FIRES.values()), Exactness.EXACT)


@st.composite
def joins(draw: st.DrawFn) -> Case:
    """A join of parts of a tensor [3, ...] in any order, along any dimensions."""
    shape = (3, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    along = draw(st.integers(1, len(shape) - 1))
    kind = draw(st.sampled_from(["unbind", "sizes", "length", "chunk"]))
    cuts = draw(st.lists(st.integers(0, shape[along]), max_size=3).map(sorted))
    bounds = [0, *cuts, shape[along]]
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    length = draw(st.integers(1, shape[along]))
    stacks = draw(st.booleans())
    rank = len(shape) - (kind == "unbind")
    dim = draw(st.integers(0, rank - (not stacks)))
    turns, doubles = draw(st.integers(0, 2)) == 2, draw(st.booleans())

    def parts(x: torch.Tensor) -> Sequence[torch.Tensor]:
        if kind == "unbind":
            return x.unbind(along)
        if kind == "chunk":
            return x.chunk(length, along)
        return x.split(sizes if kind == "sizes" else length, along)

    def body(module: nn.Module, x: torch.Tensor) -> Any:
        found = [*parts(x)][:: -1 if turns else 1]
        fits = len({tuple(part.shape[1:]) for part in found}) == 1
        if stacks:
            return torch.stack(found, dim) * 2 if fits else found[0] * 2
        if not fits and dim != along:
            return found[0] * 2
        return torch.cat(found + ([x.cos()] if doubles and dim == along and kind != "unbind" else []), dim) * 2

    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return Case(lambda: Function(body), (torch.randn(shape, generator=generator),))


@few_models
@given(case=joins())
def test_any_join_of_parts_keeps_its_bits(case: Case) -> None:
    program = program_of(case)
    result = run("canonicalize", program)
    verify_numeric(program, result.program, Exactness.EXACT)
    assert run("canonicalize", result.program).records[0].fired == 0
    assert operators(result.program).total() <= operators(program).total()
