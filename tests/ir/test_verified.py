"""The facts of a node that verification caches, and the changes after which it verifies the node again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir import Program, verify_meta
from recfx.ir.propagate import refresh
from recfx.ir.verified import is_verified
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def program() -> Program:
    b = GraphBuilder({"x": ("batch", 4)})
    doubled = b.call(aten.mul.Tensor, b.inputs["x"], 2)
    part = b.call(aten.slice.Tensor, doubled, 1, 0, 2)
    return b.build(b.call(aten.add.Tensor, part, part, alpha=1))


def named(made: Program, target: object) -> fx.Node:
    return next(n for n in made.graph.nodes if n.target is target)


def test_a_verified_node_stays_verified_in_a_copy() -> None:
    made = program()
    verify_meta(made)
    copy = made.clone()
    assert all(is_verified(n) for n in copy.graph.nodes if n.op == "call_function")


def another_operand(made: Program) -> fx.Node:
    node = named(made, aten.add.Tensor)
    node.args = (node.args[0], made.placeholders()[0])
    return node


def another_constant(made: Program) -> fx.Node:
    node = named(made, aten.slice.Tensor)
    node.args = (*node.args[:3], 3)
    return node


def another_type_of_constant(made: Program) -> fx.Node:
    node = named(made, aten.mul.Tensor)
    node.args = (node.args[0], 2.0)
    return node


def another_keyword(made: Program) -> fx.Node:
    node = named(made, aten.add.Tensor)
    node.kwargs = {"alpha": True}
    return node


def another_operator(made: Program) -> fx.Node:
    node = named(made, aten.mul.Tensor)
    node.target = aten.gt.Scalar
    return node


def another_value(made: Program) -> fx.Node:
    node = named(made, aten.slice.Tensor)
    node.meta["val"] = named(made, aten.mul.Tensor).meta["val"]
    return node


CHANGES = [
    another_operand,
    another_constant,
    another_type_of_constant,
    another_keyword,
    another_operator,
    another_value,
]
WRONG = [another_operand, another_constant, another_operator, another_value]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_node_is_looked_at_again(change: Callable[[Program], fx.Node]) -> None:
    made = program()
    verify_meta(made)
    assert not is_verified(change(made))


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_value_is_found_after_a_verification(change: Callable[[Program], fx.Node]) -> None:
    made = program()
    verify_meta(made)
    change(made)
    with pytest.raises(VerificationError, match=r"recorded as|rejects"):
        verify_meta(made)


def test_users_of_a_refreshed_value_are_looked_at_again() -> None:
    made = program()
    verify_meta(made)
    refresh(made.module, [another_constant(made)])
    assert not is_verified(named(made, aten.add.Tensor))
    with pytest.raises(VerificationError, match="recorded as"):
        verify_meta(made)
