"""Chains of linears: the layers that are found, and operators that a chain does not take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sketch import Sketch
from torch import fx

from recfx.passes.mlp.chain import Chain, match_chain
from recfx.pipeline import Miss

aten = torch.ops.aten

INPUTS: dict[str, Any] = {
    "x": ("batch", 4),
    "v": ("batch", 3),
    "row": (3,),
    "d": (("batch", 4), torch.float64),
    "flat": ("batch",),
}
STATE = {
    "w": torch.ones(3, 4), "b": torch.ones(3), "w2": torch.ones(3, 3), "w3": torch.ones(1, 3), "m": torch.ones(4, 3), "one": torch.ones(1),
    "long": torch.ones(3, dtype=torch.float64), "matrix": torch.ones(1, 3), "dw": torch.ones(3, 4, dtype=torch.float64),
}  # fmt: skip


def linear(given: Any = "x", weight: str = "w", *bias: Any) -> Any:
    return (aten.linear.default, given, weight, *bias)


def add(a: Any, b: Any, **named: Any) -> Any:
    return (aten.add.Tensor, a, b, *([named] if named else []))


def norm(given: Any, shape: list[int] | None = None, *rest: Any) -> Any:
    return (aten.layer_norm.default, given, [3] if shape is None else shape, *rest)


def relu(given: Any) -> Any:
    return (aten.relu.default, given)


def matched(head: Any, *unread: Any) -> tuple[Sketch, Chain | Miss]:
    s = Sketch(INPUTS, **STATE)
    node = s.node(head)
    return s, match_chain(s.context(*unread), node)


def described(s: Sketch, chain: Chain) -> list[tuple[Any, ...]]:
    """Weight, bias and activation of each layer, and the residual and the norm where it has them."""
    names = {s.node(name): name for name in STATE}

    def name(param: Any) -> Any:
        return names.get(param) if isinstance(param, fx.Node) else param and "new"

    layers = []
    for step in chain.steps:
        more = ([("residual", step.residual)] if step.residual >= 0 else []) + (
            [("norm", name(step.norm_weight), name(step.norm_bias), step.norm_eps)] if step.norm else []
        )
        layers.append((name(step.weight), name(step.bias), step.activation, *more))
    return layers


FIRST, SAME = linear(), linear("v", "w2")
DEEP = add(linear(FIRST, "w2"), FIRST)

#: Name -> the first linear, an expression that reads it, the end of the chain, and its layers.
CHAINS: dict[str, tuple[Any, Any, Any, list[tuple[Any, ...]]]] = {
    "a linear": (FIRST, FIRST, FIRST, [("w", None, "none")]),
    "a linear with bias": (linear("x", "w", "b"), linear("x", "w", "b"), linear("x", "w", "b"), [("w", "b", "none")]),
    "bias behind it": (FIRST, add(FIRST, "b"), add(FIRST, "b"), [("w", "b", "none")]),
    "bias before it": (FIRST, add("b", FIRST), add("b", FIRST), [("w", "b", "none")]),
    "bias with alpha": (FIRST, add(FIRST, "b", alpha=2), FIRST, [("w", None, "none")]),
    "alpha 1": (FIRST, add(FIRST, "b", alpha=1), add(FIRST, "b", alpha=1), [("w", "b", "none")]),
    "a difference": (FIRST, (aten.sub.Tensor, FIRST, "b"), FIRST, [("w", None, "none")]),
    "a second bias": (linear("x", "w", "b"), add(linear("x", "w", "b"), "b"), linear("x", "w", "b"), [("w", "b", "none")]),
    "a single number": (FIRST, add(FIRST, "one"), FIRST, [("w", None, "none")]),
    "a vector of float64": (FIRST, add(FIRST, "long"), FIRST, [("w", None, "none")]),
    "a matrix of one row": (FIRST, add(FIRST, "matrix"), FIRST, [("w", None, "none")]),
    "a vector that is an input": (FIRST, add(FIRST, "row"), FIRST, [("w", None, "none")]),
    "norm": (FIRST, norm(FIRST, [3], "b", None, 0.5), norm(FIRST, [3], "b", None, 0.5), [("w", None, "none", ("norm", "b", None, 0.5))]),
    "norm without parameters": (FIRST, norm(FIRST), norm(FIRST), [("w", None, "none", ("norm", None, None, 1e-5))]),
    "norm of an input": (FIRST, norm(FIRST, [3], "row"), FIRST, [("w", None, "none")]),
    "activation": (FIRST, relu(FIRST), relu(FIRST), [("w", None, "relu")]),
    "two layers": (
        FIRST, linear(relu(FIRST), "w3"), linear(relu(FIRST), "w3"), [("w", None, "relu"), ("w3", None, "none")],
    ),
    "residual": (FIRST, DEEP, DEEP, [("w", None, "none"), ("w2", None, "none", ("residual", 1))]),
    "residual of an input": (SAME, add(SAME, "v"), add(SAME, "v"), [("w2", None, "none", ("residual", 0))]),
    "residual before it": (SAME, add("v", SAME), add("v", SAME), [("w2", None, "none", ("residual", 0))]),
    "residual with alpha": (SAME, add(SAME, "v", alpha=2), SAME, [("w2", None, "none")]),
    "another input": (linear("x", "w"), add(linear("x", "w"), "v"), linear("x", "w"), [("w", None, "none")]),
    "a product": ((aten.mm.default, "x", "m"), (aten.mm.default, "x", "m"), (aten.mm.default, "x", "m"), [("new", None, "none")]),
    "addmm": (
        (aten.addmm.default, "b", "x", "m"), relu((aten.addmm.default, "b", "x", "m")), relu((aten.addmm.default, "b", "x", "m")),
        [("new", "b", "relu")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_the_layers_of_a_chain(name: str) -> None:
    head, unread, end, layers = CHAINS[name]
    s, chain = matched(head, unread)
    assert isinstance(chain, Chain), chain
    assert chain.output is s.node(end)
    assert chain.source is s.node("v" if "v" in head else "x")
    assert described(s, chain) == layers


def test_a_product_holds_the_transposed_matrix() -> None:
    _, chain = matched((aten.mm.default, "x", "m"))
    assert isinstance(chain, Chain)
    assert chain.steps[0].weight.tensor.shape == (3, 4)  # type: ignore[union-attr]


REFUSED: dict[str, tuple[Any, str]] = {
    "float64": ((aten.linear.default, "d", "dw"), "its input is float64 of 2"),
    "one dimension": ((aten.linear.default, "row", "w2"), "its input is float32 of 1 dimension"),
    "a computed weight": ((aten.linear.default, "x", relu("w")), "its weight is computed"),
    "a computed bias": (linear("x", "w", relu("b")), "its bias is computed"),
    "a scaled product": ((aten.addmm.default, "b", "x", "m", {"alpha": 2}), "it scales"),
    "a scaled bias": ((aten.addmm.default, "b", "x", "m", {"beta": 2}), "it scales"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_layer(name: str) -> None:
    head, reason = REFUSED[name]
    _, found = matched(head)
    assert isinstance(found, Miss)
    assert reason in str(found.reason)


def test_a_chain_ends_where_others_read_it() -> None:
    """A value that is read twice may be the end of the chain, and not inside it."""
    inner = relu(FIRST)
    s, chain = matched(FIRST, linear(inner, "w3"), (aten.exp.default, inner))
    assert isinstance(chain, Chain)
    assert chain.output is s.node(inner)
    assert chain.ended is not None
    assert "read elsewhere" in chain.ended.reason


def test_a_chain_of_a_given_last_width() -> None:
    """It must end in a bare linear of this width."""
    last = linear(relu(FIRST), "w3")
    s = Sketch(INPUTS, **STATE)
    node = s.node(FIRST)
    ctx = s.context(relu(last))
    found = match_chain(ctx, node, last_width=1)
    assert isinstance(found, Chain)
    assert found.output is s.node(last)
    assert isinstance(match_chain(ctx, node, last_width=2), Miss)
