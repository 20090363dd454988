"""Typed access to values and arguments of nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.access import argument_of, items_of, tensor_of

_aten = torch.ops.aten


def _node(*args: Any) -> fx.Node:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2, 3)
    node = graph.call_function(_aten.cat.default, tuple(x if a == "x" else a for a in args))
    node.meta["stack_trace"] = '  File "/models/mine.py", line 7, in forward\n    return torch.cat(parts)\n'
    return node


def test_tensor_of_gives_the_fake_tensor() -> None:
    assert tensor_of(_node("x").args[0]).shape == (2, 3)


@pytest.mark.parametrize("value", [None, 3, (torch.empty(1), torch.empty(1))], ids=["missing", "a size", "several"])
def test_tensor_of_refuses_other_values(value: Any) -> None:
    node = _node("x")
    if value is not None:
        node.meta["val"] = value
    with pytest.raises(VerificationError, match=r"(?s)expected a node with one tensor.*mine\.py\", line 7"):
        tensor_of(node)


@pytest.mark.parametrize("given", [None, 2, "name", [1]], ids=["none", "number", "text", "list"])
def test_tensor_of_refuses_what_is_not_a_node(given: Any) -> None:
    with pytest.raises(VerificationError, match="expected a node with one tensor"):
        tensor_of(given)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (int, 3, 3),
        (float, 0.5, 0.5),
        (float, 2, 2.0),
        (bool, True, True),
        (str, "mean", "mean"),
        (list, [1, 2], [1, 2]),
    ],
)
def test_argument_of_gives_arguments_of_the_type(kind: type, given: Any, expected: Any) -> None:
    found = argument_of(_node("x", given), 1, kind)
    assert found == expected
    assert isinstance(found, kind)


def test_argument_of_counts_from_the_end() -> None:
    node = _node("x", 4)
    assert argument_of(node, -1, int) == 4
    assert argument_of(node, -2, fx.Node) is node.args[0]


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        (0, int, "expected int as argument 0, got Node"),
        (1, fx.Node, "expected Node as argument 1, got str"),
        (2, int, "argument 2 is missing: the node has 2"),
        (-3, int, "argument -3 is missing"),
    ],
)
def test_argument_of_names_the_node_and_the_line(index: int, kind: type, message: str) -> None:
    with pytest.raises(VerificationError, match=rf"(?s){message}.*aten\.cat.*mine\.py"):
        argument_of(_node("x", "dim"), index, kind)


def test_items_of_gives_lists_of_lists_and_tuples() -> None:
    assert items_of(_node([1, 2]), 0) == [1, 2]
    assert items_of(_node((1, 2)), 0) == [1, 2]
    with pytest.raises(VerificationError, match="expected list as argument 0, got int"):
        items_of(_node(5), 0)
