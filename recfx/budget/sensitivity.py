"""How much the answers change when a table changes, in closed form: from one backward pass, for any number of changes.

For a row b with the looked-up embeddings e_b, the answer z_b changes by g_b . d_b to first order, where g_b = dz_b / de_b and d_b is the
change of the embeddings, which for single rows, sums and means of bags is the same lookup in the change of the table. The mean square
1/N sum_b (g_b . d_b)^2 = d^T H d has the Gauss-Newton Hessian H of the squared error; that of the logistic loss weighs each row with
sigmoid(z) sigmoid(-z) in addition. In contrast to trace times squared change (HAWQ-V2, Dong et al. 2020), the direction of the change
counts, and so does how often a row is read.

A row of many answers, such as the embedding of a tower, would need a backward pass for each. There H = sum_o g_o g_o^T is estimated by
Hutchinson's method: for signs v, (sum_o v_o g_o . d)^2 has the mean sum_o (g_o . d)^2. Each row of the batch has signs of its own.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recfx.hutchinson import rademacher
from recfx.ir.access import argument_of
from recfx.ir.lookup_ops import reads_as_table
from recfx.ir.op_sets import EMBEDDING_BAGS, TABLE_LOOKUPS
from recfx.ir.program import Program
from recfx.passes.prune.calibration import run_with

#: The most answers of a row that get a backward pass each.
_MOST_ANSWERS = 4
#: Random combinations of the answers of a row that has more.
_PROBES = 4
_SEED = 0
#: The position of the mode of a lookup of bags, and the mode that takes the largest element instead of a sum.
_MODE, _LARGEST = 4, 2


@dataclasses.dataclass(frozen=True)
class _Read:
    """One lookup in one batch.

    Attributes:
        node: The lookup.
        arguments: Its arguments behind the table.
        gradient: The gradients of the answers, [answers, B, ...].
    """

    node: fx.Node
    arguments: tuple[Any, ...]
    gradient: Tensor

    def response(self, change: Tensor) -> Tensor:
        """The change of each answer, float64 [answers, B]."""
        target: Any = self.node.target
        with torch.no_grad():
            moved = target(change, *self.arguments, **self.node.kwargs)
            moved = moved[0] if self.node.target in EMBEDDING_BAGS else moved
            changes: Tensor = (self.gradient * moved).flatten(2).sum(2, dtype=torch.float64)
            return changes


class TableResponses:
    """The first-order changes of the answers of some rows for changes of tables.

    Args:
        program: A program before lookups are fused.
        rows: Flat inputs of some batches.

    Attributes:
        names: The tables whose changes are known in closed form: those that only lookups read, one row or bag for each row of the batch,
            in a program whose outputs have one row for each row of the batch.
    """

    def __init__(self, program: Program, rows: Sequence[Sequence[Any]]) -> None:
        self._lookups = _lookups(program)
        self._batches: list[dict[str, list[_Read]]] = []
        answers: list[Tensor] = []
        self._shares = _shares_of_many(program, rows) if self._lookups else None
        self._rng = torch.Generator().manual_seed(_SEED)
        for leaves in rows if self._lookups else ():
            found = self._backward(program, list(leaves))
            if found is None:
                self._lookups = {}
                break
            answers.append(found)
        self.names = frozenset(self._lookups.values()).intersection(*self._batches)
        if self.names:
            spread = torch.cat(answers, 1).std(1, correction=0) if self._shares is None else torch.ones(_PROBES)
            self._scale = spread.double().clamp(min=torch.finfo(torch.float32).tiny)[:, None]

    def response(self, name: str, change: Tensor) -> Tensor:
        """The change of each answer of each row, divided by the standard deviation of that answer, float64 [answers, rows].

        Of many answers, the changes of some random combinations, whose squares have the sum that is to be expected: for each output, the
        mean of the squares of its changes, divided by the variance of all its numbers.

        Args:
            name: The table, one of `names`.
            change: The change of the table, [rows, columns].
        """
        parts = [torch.stack([read.response(change) for read in batch[name]]).sum(0) for batch in self._batches]
        return torch.cat(parts, 1) / self._scale

    def _combined(self, answers: Tensor) -> Tensor:
        """Random combinations of the answers of each row, [probes, B]."""
        assert self._shares is not None
        exact = answers.double() * self._shares[:, None]
        return torch.stack([(rademacher(exact, self._rng) * exact).sum(0) for _ in range(_PROBES)]) / math.sqrt(_PROBES)

    def _backward(self, program: Program, leaves: list[Any]) -> Tensor | None:
        """Adds the gradients of a batch and returns its answers, float64 [answers, B]; None if they have other rows."""
        held: dict[fx.Node, Tensor] = {}
        arguments: dict[fx.Node, Any] = {}

        def before(node: fx.Node, values: dict[fx.Node, Any]) -> Mapping[fx.Node, Any]:
            if node in self._lookups:
                arguments[node] = fx.map_arg(node.args[1:], values.__getitem__)
            for operand in node.all_input_nodes:
                if _lookup(operand) in self._lookups and operand not in held and isinstance(values[operand], Tensor):
                    held[operand] = values[operand].detach().requires_grad_()
            return {operand: held[operand] for operand in node.all_input_nodes if operand in held}

        with torch.enable_grad():
            answers = _answers(run_with(program, leaves, before))
            if answers is None:
                return None
            if self._shares is not None:
                answers = self._combined(answers)
            points = list(held.values())
            gradients = [
                torch.autograd.grad(answer.sum(), points, retain_graph=True, materialize_grads=True)
                for answer in answers
            ]
        found: dict[str, list[_Read]] = {}
        for place, (node, value) in enumerate(held.items()):
            lookup = _lookup(node)
            name = self._lookups.get(lookup)
            if name is None:
                continue
            if len(value) != answers.shape[1]:
                self._lookups = {node: other for node, other in self._lookups.items() if other != name}
                continue
            gradient = torch.stack([each[place] for each in gradients])
            found.setdefault(name, []).append(_Read(lookup, arguments[lookup], gradient))
        self._batches.append(found)
        return answers.detach().double()


def _lookups(program: Program) -> dict[fx.Node, str]:
    """The lookups in tables that only such lookups read, under one name, and whose results are not returned themselves."""
    reads = [node for node in program.graph.find_nodes(op="get_attr") if node.users]
    state = program.state()
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    found: dict[fx.Node, str] = {}
    for name in dict.fromkeys(str(read.target) for read in reads):
        own = [read for read in reads if str(read.target) == name]
        users = {user: read for read in own for user in read.users}
        if name not in state or not state[name].is_floating_point():  # rows of codes have no gradient
            continue
        if len(names[state[name].data_ptr()]) == 1 and all(map(_is_linear, users, users.values())):
            found.update(dict.fromkeys(users, name))
    return found


def _is_linear(user: fx.Node, table: fx.Node) -> bool:
    """Whether a user of a table is a lookup without largest elements, whose result others read."""
    if user.target not in TABLE_LOOKUPS or not reads_as_table(user, table):
        return False
    results = [user]
    if user.target in EMBEDDING_BAGS:
        mode = user.args[_MODE] if len(user.args) > _MODE else user.kwargs.get("mode", 0)
        results = [reader for reader in user.users if reader.target is operator.getitem]
        if mode == _LARGEST or len(results) < len(user.users) or any(argument_of(r, 1, int) for r in results):
            return False
    return all(reader.op != "output" for result in results for reader in result.users)


def _lookup(node: fx.Node) -> fx.Node:
    """The lookup that gives a node; the node itself if that is not a part of one."""
    source: Any = node.args[0] if node.target is operator.getitem else None
    return source if isinstance(source, fx.Node) and source.target in EMBEDDING_BAGS else node


def _answers(outputs: Sequence[Any]) -> Tensor | None:
    """The answers as [answers, B]; None if they do not have B rows each, or do not depend on any table."""
    columns = _columns(outputs)
    if columns is None:
        return None
    answers = torch.cat(columns, 1).T
    return answers if answers.requires_grad else None


def _columns(outputs: Sequence[Any]) -> list[Tensor] | None:
    """The floating-point outputs as [B, columns]; None without outputs of one number of rows."""
    tensors = [output for output in outputs if isinstance(output, Tensor) and output.is_floating_point()]
    if not tensors or any(tensor.ndim < 1 for tensor in tensors) or len({len(tensor) for tensor in tensors}) > 1:
        return None
    return [tensor.reshape(len(tensor), -1) for tensor in tensors]


def _shares_of_many(program: Program, rows: Sequence[Sequence[Any]]) -> Tensor | None:
    """What a change of each answer counts, if there are many: 1 over the deviation of its output and the root of its columns, [answers]."""
    with torch.no_grad():
        first = _columns(program.run(list(rows[0]))) if rows else None
        if first is None or sum(held.shape[1] for held in first) <= _MOST_ANSWERS:
            return None
        batches = [first, *(_columns(program.run(list(leaves))) or first for leaves in rows[1:])]
    shares = []
    for place, held in enumerate(first):
        spread = torch.cat([batch[place].double().flatten() for batch in batches]).std(correction=0)
        one = 1 / (spread.clamp(min=torch.finfo(torch.float32).tiny) * math.sqrt(held.shape[1]))
        shares.append(one.expand(held.shape[1]))
    return torch.cat(shares)
