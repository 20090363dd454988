"""Predicates and accessors of nodes: each answer and its opposite."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from recfx.passes import _match
from recfx.testing.builder import GraphBuilder

aten = torch.ops.aten


def node_of(target: Any, *args: Any, shape: tuple[Any, ...] = ("batch", 4, 3), **kwargs: Any) -> fx.Node:
    """A call of an operator on an input of a shape."""
    builder = GraphBuilder({"x": shape})
    return builder.call(target, builder.inputs["x"], *args, **kwargs)


RANDOM: dict[str, tuple[tuple[Any, ...], bool, bool]] = {
    "dropout in training": ((aten.dropout.default, 0.5, True), True, False),
    "dropout in eval mode": ((aten.dropout.default, 0.5, False), False, True),
    "dropout of nothing": ((aten.dropout.default, 0.0, True), False, True),
    "feature dropout in training": ((aten.feature_dropout.default, 0.5, True), True, False),
    "feature dropout in eval mode": ((aten.feature_dropout.default, 0.5, False), False, True),
    "native dropout in training": ((aten.native_dropout.default, 0.5, True), True, False),
    "native dropout in eval mode": ((aten.native_dropout.default, 0.5, False), False, True),
    "random numbers": ((aten.rand_like.default,), True, False),
    "a function": ((aten.exp.default,), False, False),
}


@pytest.mark.parametrize("name", RANDOM)
def test_operators_with_random_results(name: str) -> None:
    (target, *args), random, dropout = RANDOM[name]
    node = node_of(target, *args)
    assert _match.is_random(node) is random
    assert _match.is_eval_dropout(node) is dropout


def test_functions_of_python_are_not_random() -> None:
    builder = GraphBuilder({"x": ("batch", 4)})
    parts = builder.call(aten.max.dim, builder.inputs["x"], 1)
    part = builder.graph.call_function(_getitem, (parts, 0))
    assert not _match.is_random(part)
    assert not _match.is_random(builder.inputs["x"])


def _getitem(value: Any, place: int) -> Any:
    return value[place]


PERMUTATIONS: dict[str, tuple[tuple[Any, ...], list[int] | None, bool]] = {
    "transpose": ((aten.transpose.int, 1, 2), [0, 2, 1], True),
    "transpose, counted from the end": ((aten.transpose.int, -1, -2), [0, 2, 1], True),
    "transpose of the batch": ((aten.transpose.int, 0, 2), [2, 1, 0], False),
    "permute": ((aten.permute.default, [0, 2, 1]), [0, 2, 1], True),
    "permute, counted from the end": ((aten.permute.default, [0, -1, -2]), [0, 2, 1], True),
    "no change": ((aten.permute.default, [0, 1, 2]), [0, 1, 2], False),
    "a cycle": ((aten.permute.default, [1, 2, 0]), [1, 2, 0], False),
    "mT": ((aten.mT.default,), [0, 2, 1], True),
    "movedim": ((aten.movedim.int, 1, 2), [0, 2, 1], True),
    "another operator": ((aten.flip.default, [1]), None, False),
}


@pytest.mark.parametrize("name", PERMUTATIONS)
def test_permutations_and_transpositions(name: str) -> None:
    (target, *args), order, turns = PERMUTATIONS[name]
    node = node_of(target, *args)
    assert _match.permutation(node) == order
    assert _match.turned(node) is (node.args[0] if turns else None)


def test_transpositions_of_matrices_and_vectors() -> None:
    matrix = node_of(aten.t.default, shape=("batch", 4))
    assert _match.turned(matrix) is matrix.args[0]
    assert _match.turned(node_of(aten.permute.default, [0], shape=("batch",))) is None
    assert _match.permutation(None) is None
    assert _match.turned(3) is None


def test_an_adjoint_of_complex_numbers_is_more_than_a_permutation() -> None:
    builder = GraphBuilder({"x": (("batch", 4), torch.complex64)})
    assert _match.permutation(builder.call(aten.adjoint.default, builder.inputs["x"])) is None
    assert _match.permutation(builder.call(aten.transpose.int, builder.inputs["x"], 0, 1)) == [1, 0]
    real = GraphBuilder({"x": ("batch", 4)})
    assert _match.permutation(real.call(aten.adjoint.default, real.inputs["x"])) == [1, 0]


def test_arguments_by_position_and_by_keyword() -> None:
    node = node_of(aten.slice.Tensor, 1, start=2)
    assert _match.argument(node, 1, "dim") == 1
    assert _match.argument(node, 2, "start") == 2
    assert _match.argument(node, 3, "end") is None
    assert _match.argument(node, 3, "end", 9) == 9
    assert _match.argument(node, 0, "self") is node.args[0]


def test_values() -> None:
    builder = GraphBuilder({"x": ("batch", 4)})
    assert _match.value(builder.inputs["x"]) is builder.inputs["x"].meta["val"]
    assert _match.value(builder.call(aten.sym_size.int, builder.inputs["x"], 0)) is None
    assert _match.value(builder.call(aten.max.dim, builder.inputs["x"], 1)) is None
    assert _match.value("x") is None


def test_the_only_user() -> None:
    builder = GraphBuilder({"x": ("batch", 4)})
    x = builder.inputs["x"]
    assert _match.only_user(x) is None
    first = builder.call(aten.exp.default, x)
    assert _match.only_user(x) is first
    builder.call(aten.add.Tensor, x, x)
    assert _match.only_user(x) is None
    twice = builder.call(aten.mul.Tensor, first, first)
    assert _match.only_user(first) is twice


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "dtype": lambda: torch.empty(3, 4, dtype=torch.float64),
    "device": lambda: torch.empty(3, 4, device="meta"),
    "sizes": lambda: torch.empty(3, 5),
    "rank": lambda: torch.empty(3, 4, 1),
    "strides": lambda: torch.empty(4, 3).t(),
    "layout": lambda: torch.empty(3, 4).to_sparse(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str) -> None:
    base, other = torch.empty(3, 4), LAYOUTS[name]()
    assert _match.same_layout(base, torch.empty(3, 4))
    assert _match.same_layout(other, LAYOUTS[name]())
    assert not _match.same_layout(base, other)
    assert _match.same_shape(base, other) is (name not in ("sizes", "rank"))


def test_varying_sizes_are_compared_as_expressions() -> None:
    builder = GraphBuilder({"x": ("batch", 4), "y": ("batch", 4), "z": ("other", 4)})
    x, y, z = (node.meta["val"] for node in builder.inputs.values())
    assert _match.same_layout(x, y)
    assert not _match.same_shape(x, z)


def test_arguments_by_position_are_those_that_operators_take_by_position() -> None:
    """A position of an argument that operators take by keyword only would have no effect."""
    taken = {
        (position, argument.name)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(("aten::", "recfx::"))
        for position, argument in enumerate(schema.arguments)
        if not argument.kwarg_only
    }
    package = Path(_match.__file__).parents[2] / "recfx"
    files = [path for room in ("analysis", "passes", "targets") for path in (package / room).rglob("*.py")]
    calls = [
        (file.name, tuple(part.value for part in node.args[1:3] if isinstance(part, ast.Constant)))
        for file in files
        if "argument(" in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "argument"
    ]
    assert len(calls) > 50
    assert [(file, named) for file, named in calls if len(named) == 2 and named not in taken] == []
