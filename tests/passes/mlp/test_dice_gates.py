"""Gates of Dice: what is recognised gives the same numbers as the operators, and what only looks alike is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sketch import Sketch
from torch.nn import functional as F

from recfx.passes.mlp.dice_gates import Gate, match_gate, norm_affine

aten = torch.ops.aten

INPUTS: dict[str, Any] = {
    "x": ("batch", 4), "y": ("batch", 4), "double": (("batch", 4), torch.float64), "row": ("batch", 1),
    "wide": ("batch", 3, 4), "square": ("batch", 4, 4), "fixed": (4, 4, 4),
}  # fmt: skip
STATE = {
    "w": torch.tensor([0.5, 1.5, -2.0, 3.0]), "b": torch.tensor([0.25, -1.0, 2.0, 0.0]), "mean": torch.tensor([0.1, -0.2, 0.3, 0.4]),
    "var": torch.tensor([0.5, 1.0, 2.0, 4.0]), "w64": torch.ones(4, dtype=torch.float64),
    "w12": torch.ones(12), "v12": torch.full((12,), 2.0),
    "m64": torch.zeros(4, dtype=torch.float64), "w3": torch.ones(3),
}  # fmt: skip


def add(*given: Any) -> tuple[Any, ...]:
    return (aten.add.Tensor, *given)


def sub(*given: Any) -> tuple[Any, ...]:
    return (aten.sub.Tensor, *given)


def mul(*given: Any) -> tuple[Any, ...]:
    return (aten.mul.Tensor, *given)


def div(*given: Any) -> tuple[Any, ...]:
    return (aten.div.Tensor, *given)


def root(given: Any) -> tuple[Any, ...]:
    return (aten.sqrt.default, given)


def inverse_root(given: Any) -> tuple[Any, ...]:
    return (aten.rsqrt.default, given)


def gate(given: Any) -> tuple[Any, ...]:
    return (aten.sigmoid.default, given)


def mean(x: Any, dims: Any = (-1,), keep: bool = True, **named: Any) -> tuple[Any, ...]:
    return (aten.mean.dim, x, list(dims), keep, named)


def total(x: Any, dims: Any = (-1,), keep: bool = True, **named: Any) -> tuple[Any, ...]:
    return (aten.sum.dim_IntList, x, list(dims), keep, named)


def var(x: Any, dims: Any = (-1,), **named: Any) -> tuple[Any, ...]:
    return (aten.var.correction, x, list(dims), {"keepdim": True, **named})


def centred(x: Any) -> tuple[Any, ...]:
    return sub(x, mean(x))


def squares(x: Any) -> tuple[Any, ...]:
    return mul(centred(x), centred(x))


def widened(given: Any, dim: int = -1) -> tuple[Any, ...]:
    return (aten.unsqueeze.default, given, dim)


def reshaped(given: Any, *sizes: Any) -> tuple[Any, ...]:
    return (aten.reshape.default, given, list(sizes))


def layer_norm(x: Any, *rest: Any) -> tuple[Any, ...]:
    return (aten.layer_norm.default, x, *rest)


def batch_norm(x: Any, *vectors: Any, training: bool = False) -> tuple[Any, ...]:
    return (aten.batch_norm.default, x, *vectors, training, 0.1, 1e-3, False)


STORED = ("w", "b", "mean", "var")
PLAIN = var("x", correction=0)

#: Name -> x and the gate.
MATCHED: dict[str, tuple[Any, Any]] = {
    "of x": ("x", gate("x")),
    "of x with three dimensions": ("wide", gate("wide")),
    "layer norm": ("x", gate(layer_norm("x", [4], "w", "b", 1e-2))),
    "layer norm without parameters": ("x", gate(layer_norm("x", [4]))),
    "layer norm with a weight": ("wide", gate(layer_norm("wide", [4], "w"))),
    "layer norm with a bias": ("x", gate(layer_norm("x", [4], None, "b"))),
    "batch norm": ("x", gate(batch_norm("x", *STORED))),
    "batch norm without parameters": ("x", gate(batch_norm("x", None, None, "mean", "var"))),
    "batch norm of flattened rows": ("wide", reshaped(gate(batch_norm(reshaped("wide", -1, 4), *STORED)), -1, 3, 4)),
    "torch-rechub": ("x", gate(div(centred("x"), root(total(add(squares("x"), 1e-2)))))),
    "sum of squares": ("x", gate(div(centred("x"), root(total(squares("x")))))),
    "epsilon behind the sum": ("x", gate(div(centred("x"), root(add(total(squares("x")), 0.5))))),
    "epsilons in both places": ("x", gate(div(centred("x"), root(add(total(add(0.25, squares("x"))), 0.5))))),
    "two epsilons": ("x", gate(div(centred("x"), root(add(add(total(squares("x")), 0.5), 0.25))))),
    "mean of squares": ("wide", gate(div(centred("wide"), root(add(mean(squares("wide")), 0.5))))),
    "mean of square()": ("x", gate(div(centred("x"), root(add(mean((aten.square.default, centred("x"))), 0.5))))),
    "variance": ("x", gate(div(centred("x"), root(add(PLAIN, 0.5))))),
    "variance with the usual correction": ("x", gate(div(centred("x"), root(add(var("x"), 0.5))))),
    "variance with a correction of 2": ("x", gate(div(centred("x"), root(add(var("x", correction=2), 0.5))))),
    "var.dim": ("x", gate(div(centred("x"), root(add((aten.var.dim, "x", [1], True, True), 0.5))))),
    "var.dim without correction": ("x", gate(div(centred("x"), root(add((aten.var.dim, "x", [1], False, True), 0.5))))),
    "reciprocal root": ("x", gate(mul(centred("x"), inverse_root(add(PLAIN, 0.5))))),
    "reciprocal root first": ("x", gate(mul(inverse_root(add(PLAIN, 0.5)), centred("x")))),
    "widened root": ("x", gate(div(centred("x"), widened(root(add(mean(squares("x"), keep=False), 0.5)))))),
    "widened reciprocal root": ("x", gate(mul(centred("x"), widened(inverse_root(add(mean(squares("x"), keep=False), 0.5)), 1)))),
    "widened below the root": ("wide", gate(div(centred("wide"), root(add(widened(mean(squares("wide"), keep=False), 2), 0.5))))),
    "widened mean": ("x", gate(div(sub("x", widened(mean("x", keep=False))), root(add(PLAIN, 0.5))))),
    "positive dimension": ("wide", gate(div(sub("wide", mean("wide", [2])), root(add(var("wide", [2], correction=0), 0.5))))),
}  # fmt: skip

UNDER = add(PLAIN, 0.5)

#: Name -> x and a gate that is another function, or of an unknown form.
REFUSED: dict[str, tuple[Any, Any]] = {
    "another function": ("x", (aten.tanh.default, "x")),
    "of another tensor": ("x", gate("y")),
    "in float64": ("double", gate("double")),
    "reshaped": ("wide", reshaped(gate("wide"), -1, 12)),
    "layer norm of another tensor": ("x", gate(layer_norm("y", [4], "w", "b"))),
    "layer norm with a computed weight": ("x", gate(layer_norm("x", [4], (aten.exp.default, "w")))),
    "layer norm with a computed bias": ("x", gate(layer_norm("x", [4], "w", (aten.exp.default, "b")))),
    "layer norm over two dimensions": ("wide", gate(layer_norm("wide", [3, 4]))),
    "batch norm in training": ("x", gate(batch_norm("x", *STORED, training=True))),
    "batch norm of another tensor": ("x", gate(batch_norm("y", *STORED))),
    "batch norm of the second dimension": ("square", gate(batch_norm("square", *STORED))),
    "batch norm of flattened channels": (
        "wide", reshaped(gate(batch_norm(reshaped("wide", -1, 12), "w12", "w12", "w12", "v12")), -1, 3, 4)
    ),
    "batch norm of flattened rows, gate left flat": ("wide", gate(batch_norm(reshaped("wide", -1, 4), *STORED))),
    "batch norm with float64 statistics": ("x", gate(batch_norm("x", None, None, "m64", "w64"))),
    "difference with a factor": ("x", gate(div(sub("x", mean("x"), {"alpha": 2}), root(UNDER)))),
    "difference turned": ("x", gate(div(sub(mean("x"), "x"), root(UNDER)))),
    "difference from the mean of another tensor": ("x", gate(div(sub("x", mean("y")), root(UNDER)))),
    "sum instead of the mean": ("x", gate(div(sub("x", total("x")), root(UNDER)))),
    "mean of the batch": ("x", gate(div(sub("x", mean("x", [0])), root(UNDER)))),
    "mean of the second dimension": ("wide", gate(div(sub("wide", mean("wide", [1])), root(add(var("wide", correction=0), 0.5))))),
    "mean of two dimensions": ("wide", gate(div(sub("wide", mean("wide", [1, 2])), root(add(var("wide", correction=0), 0.5))))),
    "mean in float64": ("x", gate(div(sub("x", mean("x", dtype=torch.float64)), root(UNDER)))),
    "mean of a square without its last dimension": (
        "fixed", gate(div(sub("fixed", mean("fixed", keep=False)), root(add(var("fixed", correction=0), 0.5))))
    ),
    "variance of another tensor": ("x", gate(div(centred("x"), root(add(var("y", correction=0), 0.5))))),
    "variance of the batch": ("x", gate(div(centred("x"), root(add(var("x", [0], correction=0), 0.5))))),
    "variance with a correction of the width": ("x", gate(div(centred("x"), root(add(var("x", correction=4), 0.5))))),
    "variance with a correction above the width": ("x", gate(div(centred("x"), root(add(var("x", correction=5), 0.5))))),
    "squares of another tensor": ("x", gate(div(centred("x"), root(add(mean(squares("y")), 0.5))))),
    "squares of x": ("x", gate(div(centred("x"), root(add(mean(mul("x", "x")), 0.5))))),
    "products of two tensors": ("x", gate(div(centred("x"), root(add(mean(mul(centred("x"), centred("y"))), 0.5))))),
    "absolute values": ("x", gate(div(centred("x"), root(add(mean((aten.abs.default, centred("x"))), 0.5))))),
    "the largest square": ("x", gate(div(centred("x"), root(add((aten.amax.default, squares("x"), [-1], True), 0.5))))),
    "an input under the root": ("x", gate(div(centred("x"), root("row")))),
    "no root": ("x", gate(div(centred("x"), UNDER))),
    "a reciprocal root below": ("x", gate(div(centred("x"), inverse_root(UNDER)))),
    "a product with the root": ("x", gate(mul(centred("x"), root(UNDER)))),
    "a sum with the root": ("x", gate(add(centred("x"), root(UNDER)))),
    "a rounded quotient": ("x", gate((aten.div.Tensor_mode, centred("x"), root(UNDER), {"rounding_mode": "floor"}))),
    "a negative epsilon": ("x", gate(div(centred("x"), root(add(PLAIN, -0.5))))),
    "an epsilon with a factor": ("x", gate(div(centred("x"), root(add(PLAIN, 0.5, {"alpha": 2}))))),
    "an epsilon from an input": ("x", gate(div(centred("x"), root(add(PLAIN, "row"))))),
    "roots of other rows": ("fixed", gate(div(centred("fixed"), root(add(mean(squares("fixed"), keep=False), 0.5))))),
    "reciprocal roots of other rows": ("fixed", gate(mul(centred("fixed"), inverse_root(add(mean(squares("fixed"), keep=False), 0.5))))),
    "roots widened in front": ("square", gate(div(centred("square"), widened(root(add(mean(squares("square"), keep=False), 0.5)), 1)))),
    "a constant over the root": ("x", gate(div(centred("w"), root(UNDER)))),
}  # fmt: skip


def sketched(*expressions: Any) -> Sketch:
    text = repr(expressions)
    return Sketch(
        {n: i for n, i in INPUTS.items() if repr(n) in text}, **{n: t for n, t in STATE.items() if repr(n) in text}
    )


def applied(found: Gate, x: torch.Tensor) -> torch.Tensor:
    normed = x if found.eps is None else F.layer_norm(x, x.shape[-1:], eps=found.eps)
    return torch.sigmoid(normed * found.scale + found.shift)


@pytest.mark.parametrize("name", MATCHED)
def test_the_gate_gives_the_same_numbers(name: str) -> None:
    x, whole = MATCHED[name]
    sketch = sketched(x, whole)
    ctx = sketch.context(whole)
    found = match_gate(ctx, sketch.node(x), sketch.node(x), sketch.node(whole))
    assert found is not None
    assert found.scale.dtype is found.shift.dtype is torch.float32
    drawn = torch.randn(3, *INPUTS[x][1:], generator=torch.Generator().manual_seed(0))
    (wanted,) = ctx.program.module(drawn)
    torch.testing.assert_close(applied(found, drawn), wanted)


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_looks_like_a_gate(name: str) -> None:
    x, whole = REFUSED[name]
    sketch = sketched(x, whole)
    ctx = sketch.context(whole)
    assert match_gate(ctx, sketch.node(x), sketch.node(x), sketch.node(whole)) is None


TURNED = (aten.permute.default, "square", [0, 2, 1])

#: Name -> z, x with its channels transposed to the front, a gate of it, and whether it is taken.
TRANSPOSED: dict[str, tuple[Any, Any, bool]] = {
    "batch norm": (TURNED, gate(batch_norm(TURNED, *STORED)), True),
    "batch norm of x": (TURNED, gate(batch_norm("square", *STORED)), False),
    "batch norm of a reshape": (TURNED, gate(batch_norm(reshaped(TURNED, -1, 4), *STORED)), False),
    "batch norm of other channels": (TURNED, gate(batch_norm(TURNED, *STORED, training=True)), False),
    "of z alone": (TURNED, gate(TURNED), False),
    "layer norm of x": (TURNED, gate(layer_norm("square", [4])), False),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_gates_of_transposed_channels(name: str) -> None:
    z, whole, taken = TRANSPOSED[name]
    sketch = sketched("square", z, whole)
    found = match_gate(sketch.context(whole, z), sketch.node("square"), sketch.node(z), sketch.node(whole))
    assert (found is not None) is taken
    if found is not None:
        torch.testing.assert_close(
            found.scale.double(), STATE["w"].double() / (STATE["var"].double() + 1e-3).sqrt(), rtol=1e-6, atol=0
        )


def test_a_batch_norm_of_other_channels_has_no_affine_map() -> None:
    whole = batch_norm("x", *STORED)
    sketch = sketched("x", whole)
    ctx = sketch.context(whole)
    assert norm_affine(ctx, sketch.node(whole), 3) is None
    found = norm_affine(ctx, sketch.node(whole), 4)
    assert found is not None
    drawn = torch.randn(2, 4)
    wanted = F.batch_norm(drawn, STATE["mean"], STATE["var"], STATE["w"], STATE["b"], eps=1e-3)
    torch.testing.assert_close(drawn * found[0] + found[1], wanted)
