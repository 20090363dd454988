"""What a pass looks for: operators named in its code, in values of global names and of helpers, and the numbers in its code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recfx
from recfx.testing.focus import Focus, focus_of

aten = torch.ops.aten

OPERATOR = aten.tanh.default
IN_A_TUPLE = (aten.tanh.default, 3)
IN_A_DICT = {"the operator": aten.tanh.default}
KEYS_OF_A_DICT = {aten.tanh.default: "the operator"}


def by_name(node: Any) -> bool:
    return bool(node.target is aten.tanh.default)


def by_value(node: Any) -> bool:
    return bool(node.target is OPERATOR)


def in_a_tuple(node: Any) -> bool:
    return node.target in IN_A_TUPLE


def in_a_dict(node: Any) -> bool:
    return bool(node.target is IN_A_DICT["the operator"])


def a_key(node: Any) -> bool:
    return node.target in KEYS_OF_A_DICT


def by_helper(node: Any) -> bool:
    return in_a_tuple(node)


def in_a_comprehension(node: Any) -> list[bool]:
    return [user.target is aten.tanh.default for user in node.users]


def in_a_closure() -> Any:
    held = aten.tanh.default
    return lambda node: node.target is held


def nothing(node: Any) -> bool:
    return node is None


def focus_on(looks: Any) -> Focus:
    class Looks(recfx.Pass):
        spec = recfx.PassSpec("look", "For a test.")

        def run(self, program: recfx.Program, ctx: recfx.PassContext) -> None:
            looks(program)

    return focus_of([Looks()])


LOOKS = {
    "its name": by_name,
    "a global value": by_value,
    "a tuple": in_a_tuple,
    "a dict": in_a_dict,
    "a key": a_key,
    "a helper": by_helper,
    "a comprehension": in_a_comprehension,
    "a closure": in_a_closure(),
}


@pytest.mark.parametrize("name", LOOKS)
def test_an_operator_is_found(name: str) -> None:
    found = focus_on(LOOKS[name])
    assert "tanh" in found.named
    assert found.rooted == ()


def test_other_operators_are_not_found() -> None:
    assert "tanh" not in focus_on(nothing).named
    assert "relu" not in focus_on(in_a_tuple).named


def test_numbers_are_those_of_the_code() -> None:
    found = focus_on(lambda node: node.args[1] == 0.25 or node.args[2] in (17, 19.5))
    assert {0.25, 17, 19.5} <= set(found.numbers)
