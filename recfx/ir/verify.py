"""The verifier: it checks that a program is well formed and that its recorded shapes are right.

There are three levels, and each includes the lower levels: `structure` (graph lint and the dialect table, under a millisecond), `meta`
(recomputed fake shapes) and `numeric` (a run compared with another program, in `recfx.ir.numeric`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.functional_ops import is_inplace
from recfx.ir.program import Program, get_state
from recfx.ir.propagate import free_symbols, propagate
from recfx.ir.provenance import where
from recfx.ir.verified import is_verified, remember


class Level(IntEnum):
    """The level of verification after each pass."""

    OFF = 0
    STRUCTURE = 1
    META = 2
    NUMERIC = 3


_PYTHON_OPERATORS = {
    operator.getitem,
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.truediv,
    operator.mod,
    operator.neg,
    operator.pow,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.and_,
    operator.or_,
    operator.not_,
    torch.sym_max,
    torch.sym_min,
    torch.sym_not,
    torch.sym_int,
    torch.sym_float,
    torch.sym_ite,
    torch.sym_sum,
    torch._check,
    torch._check_is_size,
}

# The illegal forms: (description, predicate of a node).
_ILLEGAL: tuple[tuple[str, Callable[[fx.Node], bool]], ...] = (
    ("method calls are not part of the dialect", lambda n: n.op == "call_method"),
    ("module calls are not part of the dialect", lambda n: n.op == "call_module"),
    ("in-place operators are not part of the dialect", is_inplace),
    (
        "only ATen and other registered operators, and arithmetic on sizes, may be called",
        lambda n: n.op == "call_function" and not _known_callee(n.target),
    ),
)


def verify_structure(program: Program) -> None:
    """Checks that the graph is well formed and fits the signature.

    Raises:
        VerificationError: The graph is malformed, calls an operator outside the dialect, reads an attribute that does not exist, or has
            inputs or outputs that do not fit the signature.
    """
    try:
        program.graph.lint()
    except RuntimeError as error:
        raise VerificationError(f"the graph is malformed: {error}", where="graph lint") from error
    for node in program.graph.nodes:
        for what, has in _ILLEGAL:
            if has(node):
                raise VerificationError(what, where=where(node))
        if node.op == "get_attr":
            _check_attribute(program, node)
    placeholders = program.placeholders()
    if len(placeholders) != len(program.signature.leaves):
        raise VerificationError(
            f"the graph has {len(placeholders)} inputs, the signature {len(program.signature.leaves)}",
            hint="a pass must keep every placeholder, used or not",
        )
    _check_output(program)


def verify_meta(program: Program) -> None:
    """Recomputes the fake value of every node and compares it with the recorded value.

    It skips nodes that an earlier call verified with the same operator, arguments and recorded values.

    Raises:
        VerificationError: A node has no recorded value, its operator gives another dtype or shape, or a dynamic dimension became fixed.
    """
    verify_structure(program)
    before = free_symbols(program.module)
    open_nodes = [node for node in program.graph.nodes if node.op != "output" and not is_verified(node)]
    for node, value in propagate(program.module, open_nodes).items():
        if "val" not in node.meta:
            raise VerificationError(
                "the node has no recorded value", where=where(node), hint="create nodes with ctx.call"
            )
        if not _same_value(node.meta["val"], value):
            raise VerificationError(
                f"recorded as {_brief(node.meta['val'])}, but it is {_brief(value)}",
                where=where(node),
                hint="refresh the values of the users of every node you replace by another shape or dtype",
            )
    for node in open_nodes:
        remember(node)
    lost = before - free_symbols(program.module)
    if lost:
        raise VerificationError(
            f"the free dimension(s) {sorted(lost)} became fixed",
            hint="compute sizes from the inputs instead of writing the example's sizes into the graph",
        )


def _known_callee(target: Any) -> bool:
    if isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return True
    return target in _PYTHON_OPERATORS or getattr(target, "__module__", "") == "math"


def _check_attribute(program: Program, node: fx.Node) -> None:
    try:
        get_state(program.module, str(node.target))
    except AttributeError as error:
        raise VerificationError(
            f"the parameter or buffer {node.target!r} does not exist",
            where=where(node),
            hint="add it to the module with set_state before the graph reads it",
        ) from error


def _check_output(program: Program) -> None:
    output = next(iter(reversed(program.graph.nodes)))
    if output.op != "output" or not isinstance(output.args[0], tuple | list):
        raise VerificationError("the graph must end in an output node that returns a flat tuple", where=where(output))
    want, got = program.signature.out_spec.num_leaves, len(output.args[0])
    if want != got:
        raise VerificationError(f"the graph returns {got} values, the signature expects {want}", where=where(output))


def _same_value(recorded: Any, computed: Any) -> bool:
    if recorded is computed:
        return True
    if isinstance(recorded, torch.Tensor) and isinstance(computed, torch.Tensor):
        return (
            recorded.dtype is computed.dtype
            and recorded.ndim == computed.ndim
            and recorded.device == computed.device
            and all(_same_size(a, b) for a, b in zip(recorded.shape, computed.shape, strict=True))
        )
    if isinstance(recorded, tuple | list) and isinstance(computed, tuple | list):
        return len(recorded) == len(computed) and all(map(_same_value, recorded, computed))
    if isinstance(recorded, torch.SymInt | int) and isinstance(computed, torch.SymInt | int):
        return _same_size(recorded, computed)
    return type(recorded) is type(computed)


def _same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    """Compares sizes as expressions, never as booleans: asking `a == b` could fix a free dimension."""
    left = a.node.expr if isinstance(a, torch.SymInt) else a
    right = b.node.expr if isinstance(b, torch.SymInt) else b
    if left == right:
        return True
    import sympy

    return bool(sympy.simplify(sympy.sympify(left) - sympy.sympify(right)) == 0)


def _brief(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{[str(s) for s in value.shape]}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_brief, value))})"
    return str(value)
