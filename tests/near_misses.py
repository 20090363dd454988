"""Programs that differ from a given program in one argument, so that they nearly match the pattern of a pass. An
operand is another tensor, a flag is inverted, a number is changed, a sum is scaled by `alpha`, or a lookup has a
padding id. A pass may rewrite such a program or leave it alone, but must not change its results.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pass_cases import run
from torch import fx

from recfx.errors import RecfxError
from recfx.ir import Exactness, Program
from recfx.ir.numeric import compare_outputs
from recfx.ir.op_sets import ADDITIONS
from recfx.ir.propagate import fake_inputs, free_symbols, refresh
from recfx.ir.reference_run import Reference
from recfx.pipeline import Pass

_aten = torch.ops.aten

#: A change in words, and the function that makes it at a node of a copy of the program.
Change = tuple[str, Callable[[fx.Node], None]]


def changes(node: fx.Node) -> Iterator[Change]:
    """The changes of one argument of a node."""
    for place, argument in enumerate(node.args):
        yield from _of_argument(node, (place,), argument)
    for name, argument in node.kwargs.items():
        yield from _of_argument(node, (name,), argument)
    if node.target in ADDITIONS and "alpha" not in node.kwargs:
        yield "alpha", lambda n: n.update_kwarg("alpha", 2)


def _of_argument(node: fx.Node, path: tuple[Any, ...], argument: Any) -> Iterator[Change]:
    where = ".".join(map(str, path))
    if isinstance(argument, list | tuple):
        for place, inner in enumerate(argument):
            yield from _of_argument(node, (*path, place), inner)
    elif isinstance(argument, fx.Node):
        if isinstance(argument.meta.get("val"), torch.Tensor):
            yield f"another tensor at {where}", lambda n: _set(n, path, _another(n, _get(n, path)))
    elif isinstance(argument, bool):
        yield f"{not argument} at {where}", lambda n: _set(n, path, not argument)
    elif isinstance(argument, int | float) and node.target is not operator.getitem:
        for other in (argument + 1, argument - 1):
            yield f"{other} at {where}", lambda n, other=other: _set(n, path, other)


def _another(node: fx.Node, operand: fx.Node) -> fx.Node:
    """Another tensor of the same shape and type: the cosine of floats, or other elements in reverse order along the
    last axis."""
    held = operand.meta["val"]
    with node.graph.inserting_before(node):
        if held.is_floating_point():
            return node.graph.call_function(_aten.cos.default, (operand,))
        return node.graph.call_function(_aten.flip.default, (operand, [max(held.ndim - 1, 0)]))


def _get(node: fx.Node, path: Sequence[Any]) -> Any:
    held: Any = node.kwargs if isinstance(path[0], str) else node.args
    for step in path:
        held = held[step]
    return held


def _set(node: fx.Node, path: Sequence[Any], new: Any) -> None:
    def replaced(held: Any, rest: Sequence[Any]) -> Any:
        if not rest:
            return new
        return type(held)(replaced(v, rest[1:]) if i == rest[0] else v for i, v in enumerate(held))

    if isinstance(path[0], str):
        node.update_kwarg(path[0], replaced(node.kwargs[path[0]], path[1:]))
    else:
        node.args = replaced(tuple(node.args), path)


@dataclasses.dataclass(frozen=True, eq=False)
class NearMiss:
    """A change of one argument of a program.

    Attributes:
        program: The program.
        node: The index of the changed node.
        number: The index among the node's changes.
        what: The node and the change, in words.
        kind: Equal for changes that passes do not distinguish: operator, argument, and the readers of the result.
    """

    program: Program
    node: int
    number: int
    what: str
    kind: tuple[Any, ...]

    def make(self) -> Program | None:
        """The changed program; None if its operators refuse the argument."""
        return _changed(self.program, self.node, self.number)


def near_misses(program: Program) -> Iterator[NearMiss]:
    """All changes of one argument."""
    for index, node in enumerate(program.graph.nodes):
        if node.op == "call_function":
            readers = tuple(sorted(str(user.target) for user in node.users))
            for number, (what, _) in enumerate(changes(node)):
                yield NearMiss(program, index, number, f"{node.name}: {what}", (node.target, what, readers))


def _changed(program: Program, index: int, number: int) -> Program | None:
    copy = program.clone()
    node = list(copy.graph.nodes)[index]
    try:
        list(changes(node))[number][1](node)
        _renew_values(copy)
        if len(free_symbols(copy.module)) != len(copy.signature.dims):
            return None  # the changed operator fixes a size
        copy.module.recompile()
        copy.run(copy.example)
    except (RecfxError, RuntimeError, IndexError, TypeError, ValueError, KeyError, AssertionError, NotImplementedError):
        return None
    return copy


def _renew_values(program: Program) -> None:
    """Computes all values with the program's own size symbols, so that a change of a size does not affect other
    programs."""
    inputs = program.module.graph.find_nodes(op="placeholder")
    shapes = [(spec.shape, spec.dtype, spec.device) for spec in program.signature.leaves]
    for node, value in zip(inputs, fake_inputs(shapes), strict=True):
        node.meta["val"] = value
    for node in program.graph.nodes:
        if node.op != "placeholder":
            node.meta.pop("val", None)
    refresh(program.module)


def check_near_misses(item: Pass | str, programs: Iterable[Program], exactness: Exactness, most: int = 60) -> None:
    """Asserts that the pass preserves the results of programs that differ from these in one argument.

    Args:
        item: The pass.
        programs: Programs that it rewrites.
        exactness: Its class.
        most: The largest number of changes: one of each kind, evenly spaced among all.
    """
    kinds = {miss.kind: miss for program in programs for miss in near_misses(program)}
    chosen = list(kinds.values())[:: -(-len(kinds) // most)]
    tried = 0
    for miss in chosen:
        changed = miss.make()
        if changed is not None:
            check_keeps(item, changed, exactness, miss.what)
            tried += 1
    assert tried >= len(chosen) // 3  # most changes make a program that runs


def check_keeps(item: Pass | str, program: Program, exactness: Exactness, what: str) -> None:
    """Checks that the pass does not change the results of a program on the example's inputs.

    Raises:
        VerificationError: It changes them.
    """
    expected = program.run(program.example)
    after = run(item, program).program
    compare_outputs(expected, after.run(program.example), exactness, what, Reference(program, program.example))
