"""Names of operators in files: names to operators and back, and operators that files may not name."""

from __future__ import annotations

import math
import operator
from typing import Any

import pytest
import torch

from recfx.errors import ArtifactError
from recfx.ir import operators
from recfx.ops import lookup

aten = torch.ops.aten
NAMES: dict[Any, str] = {
    aten.add.Tensor: "op:aten.add.Tensor",
    aten.relu.default: "op:aten.relu.default",
    lookup.grouped_lookup: "op:recfx.grouped_lookup.default",
    operator.getitem: "operator:getitem",
    operator.mul: "operator:mul",
    torch.sym_max: "torch:sym_max",
    math.ceil: "math:ceil",
}

#: Operator that returns uninitialised memory -> the name of its replacement, and the keyword arguments that it does not take.
UNINITIALISED: dict[Any, tuple[str, tuple[str, ...]]] = {
    aten.empty.memory_format: ("op:aten.zeros.default", ("memory_format",)),
    aten.new_empty.default: ("op:aten.new_zeros.default", ("memory_format",)),
    aten.empty_like.default: ("op:aten.zeros_like.default", ()),
}


@pytest.mark.parametrize("target", NAMES, ids=NAMES.values())
def test_an_operator_is_found_by_its_name(target: Any) -> None:
    assert operators.name_of(target, "here") == NAMES[target]
    assert operators.find(NAMES[target]) is target
    assert operators.initialised(NAMES[target]) == (NAMES[target], ())
    assert operators.is_initialising(target) is False


@pytest.mark.parametrize("target", UNINITIALISED, ids=str)
def test_uninitialised_memory_is_saved_as_zeros(target: Any) -> None:
    replacement, dropped = UNINITIALISED[target]
    assert operators.name_of(target, "here") == replacement
    assert operators.initialised(f"op:{target}") == (replacement, dropped)
    assert operators.is_initialising(target) is bool(dropped)
    found = operators.find(replacement)
    taken = {argument.name for argument in found._schema.arguments}
    assert not taken & set(dropped), "the replacement takes what is dropped"


def test_only_operators_are_replaced() -> None:
    assert operators.initialised("operator:aten.empty.memory_format") == ("operator:aten.empty.memory_format", ())


@pytest.mark.parametrize("target", [math.sin, print, lambda x: x, [], torch.relu])
def test_other_functions_cannot_be_saved(target: Any) -> None:
    with pytest.raises(ArtifactError, match="cannot be saved") as raised:
        operators.name_of(target, "the node here")
    assert raised.value.where == "the node here"
    assert "torch.library" in str(raised.value)


REFUSED = {
    "op:aten.add": "is not an operator",
    "op:aten": "is not an operator",
    "op:": "is not an operator",
    "": "is not an operator",
    "op:aten.add.Tensor.more": "is not an operator",
    "aten.add.Tensor": "is not an operator",
    "operator:aten.add.Tensor": "is not an operator",
    "operator:attrgetter": "is not an operator",
    "math:sin": "is not an operator",
    "torch:load": "is not an operator",
    "op:aten.add.NoSuchOverload": "does not exist here",
    "op:aten.set_.source_Tensor": "not one that saved models may call",
    "op:aten.from_file.default": "not one that saved models may call",
    "op:recfx.no_such_operator.default": "not one that saved models may call",
    "op:mylib.score.default": "not one that saved models may call",
    "op:prims.add.default": "not one that saved models may call",
    "op:aten.add.__class__": "does not exist here",
    "op:aten.add.out": "writes to its arguments",
    f"op:{'x' * 5000}.y.default": "not one that saved models may call",
}


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name[:40])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match=REFUSED[name]) as raised:
        operators.find(name)
    assert len(str(raised.value)) < 1000


def test_operators_that_the_user_allows() -> None:
    assert operators.find("op:prims.sin.default", {"prims::sin"}) is torch.ops.prims.sin.default
    assert operators.find("op:aten.add.out", {"aten::add"}) is aten.add.out
    with pytest.raises(ArtifactError, match="does not exist here"):
        operators.find("op:prims.no_such_operator.default", {"prims::no_such_operator"})
    with pytest.raises(ArtifactError, match="does not exist here"):
        operators.find("op:my-lib.score.default", {"my-lib::score"})
    with pytest.raises(ArtifactError, match=r'operators=\["prims::cos"\]'):
        operators.find("op:prims.cos.default", {"prims::sin"})
