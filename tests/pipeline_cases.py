"""Helpers of the tests of running pipelines: chains of operators, a correct rewrite and a wrong rewrite."""

from __future__ import annotations

from typing import Any

import torch

import recfx
from recfx.ir import Program
from recfx.pipeline import (
    Miss,
    Pass,
    PassContext,
    PassSpec,
    rewrite,
)
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def chain(*targets: Any) -> Program:
    """x -> target -> target ... -> out."""
    b = GraphBuilder({"x": ("batch", 4)})
    node = b.inputs["x"]
    for target in targets:
        node = b.call(target, node)
    return b.build(node)


def targets(program: Program) -> list[Any]:
    return [n.target for n in program.graph.nodes if n.op == "call_function"]


RELU, TANH, NEG, ABS = aten.relu.default, aten.tanh.default, aten.neg.default, aten.abs.default


@rewrite(RELU)
def drop_double_relu(node: Any, ctx: PassContext) -> Any:
    """relu(relu(x)) is relu(x)."""
    inner = node.args[0]
    return inner if inner.target is RELU else Miss("its input is not a relu", inner)


@rewrite(TANH, exactness=recfx.Exactness.APPROX, name="tanh-to-neg")
def spoil(node: Any, ctx: PassContext) -> Any:
    """A rewrite that is wrong on purpose, as its name says."""
    return ctx.call(NEG, node.args[0])


def made(run: Any = None, name: str = "made", **spec: Any) -> Pass:
    """A pass that does nothing, or calls `run(program, ctx)`."""
    body = {"spec": PassSpec(name, "For a test.", **spec), "run": lambda self, program, ctx: run and run(program, ctx)}
    cls = type("Made", (Pass,), body)
    return cls()  # type: ignore[no-any-return]


def raises(error: Exception, **spec: Any) -> Pass:
    def run(program: Program, ctx: PassContext) -> None:
        raise error

    return made(run, "raises", **spec)
